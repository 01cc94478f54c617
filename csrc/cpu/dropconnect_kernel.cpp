#include "dropconnect_kernel.h"

#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {

extern const DropConnectKernels dropconnect;
const DropConnectKernels dropconnect = {keep_bits, drop<float>, drop<double>};

}  // namespace ulmfit_fast::ULMFIT_ISA
