// Rows times the mask of their sequence. Torch-free (see lstm_kernel.h).
#pragma once

#include <cstdint>

#include "../../common/bfloat16.h"

namespace ulmfit_fast {

// output[row] = input[row] * mask[row of its step], for rows begin .. end of the packed batch.
template <typename E>
struct LockedDropout {
  const E* input;              // [N, F]
  const Accumulator<E>* mask;  // [B, F]
  const int64_t* batch_sizes;  // [T]
  const int64_t* offsets;      // [T]
  int64_t steps, features;
  E* output;  // [N, F] written
};

template <typename E>
struct LockedDropoutKernels {
  void (*multiply)(const LockedDropout<E>&, int64_t begin, int64_t end);
};

// The kernels of the instruction set in use.
template <typename E>
const LockedDropoutKernels<E>& locked_dropout_kernels();

}  // namespace ulmfit_fast
