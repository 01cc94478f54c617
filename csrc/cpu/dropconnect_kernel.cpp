#include "dropconnect_kernel.h"

#include "dropped_weight.h"

namespace ulmfit_fast::ULMFIT_ISA {

extern const DropConnectKernels dropconnect;
const DropConnectKernels dropconnect = {keep_bits};

}  // namespace ulmfit_fast::ULMFIT_ISA
