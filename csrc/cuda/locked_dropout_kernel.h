// Rows times a mask on CUDA, as locked_dropout.cpp launches it.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

// output [elements] = input * mask, which repeats every `period` elements.
template <typename E>
void multiply_by_mask(cudaStream_t stream, E* output, const E* input, const Accumulator<E>* mask, int64_t elements,
                      int64_t period);

}  // namespace ulmfit_fast::cuda
