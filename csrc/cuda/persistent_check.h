// Whether a call's recurrence may be one launch: a kernel that no GPU has run is not trusted.
#pragma once

#include "../lstm.h"

namespace ulmfit_fast::cuda {

// Where a launch that gives up says so, or null where the call goes step by step: always unless
// ULMFIT_FAST_CUDA_PERSISTENT=1; then unless a small problem came out as it does step by step, on that device, in this
// process, with the same instance of the kernel, within a time limit. The first call that would use an instance checks
// it, and waits for the device; a call that a CUDA graph captures cannot, and goes step by step until another has. A
// device that fails is named on stderr.
uint64_t* may_persist(const LstmInputs& call);

// Throws std::runtime_error, once, if a launch on this tensor's device has given up since: its results are no numbers.
// From then on calls go step by step.
void check_persistent(const Tensor& on_device);

}  // namespace ulmfit_fast::cuda
