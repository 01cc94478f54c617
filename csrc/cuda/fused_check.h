// Whether steps may be fused, and backward's products our own: a kernel that no GPU has run is not trusted.
#pragma once

#include "../lstm.h"

namespace ulmfit_fast::cuda {

// Never unless ULMFIT_FAST_CUDA_FUSED_STEP=1; then on a device where, in this process, small problems came out as they
// do step by step, within a time limit. The first call that could use it checks, and waits for the device; a call that
// a CUDA graph captures cannot, and runs step by step until another has. A device that fails is named on stderr.
bool may_fuse(const LstmInputs& call);

}  // namespace ulmfit_fast::cuda
