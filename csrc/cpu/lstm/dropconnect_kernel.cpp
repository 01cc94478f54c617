#include "dropconnect_kernel.h"

#include "../gemm/mask_bits.h"

namespace ulmfit_fast::ULMFIT_ISA {

extern const DropConnectKernels dropconnect;
const DropConnectKernels dropconnect = {keep_bits};

}  // namespace ulmfit_fast::ULMFIT_ISA
