// One thread an element. Limit: memory bandwidth.
#include "launch.cuh"
#include "locked_dropout_kernel.h"

namespace ulmfit_fast::cuda {
namespace {

// The rows of one step.
template <typename E>
__global__ void locked_dropout_kernel(E* output, const E* input, const Accumulator<E>* mask, int64_t elements) {
  const int64_t index = thread_index();
  if (index < elements) output[index] = static_cast<E>(static_cast<Accumulator<E>>(input[index]) * mask[index]);
}

// All steps alike: the mask repeats every `period` elements.
template <typename E>
__global__ void repeated_dropout_kernel(E* output, const E* input, const Accumulator<E>* mask, int64_t elements,
                                        int64_t period) {
  const int64_t index = thread_index();
  if (index < elements)
    output[index] = static_cast<E>(static_cast<Accumulator<E>>(input[index]) * mask[index % period]);
}

}  // namespace

template <typename E>
void multiply_by_mask(cudaStream_t stream, E* output, const E* input, const Accumulator<E>* mask, int64_t elements,
                      int64_t period) {
  if (elements == period)
    launch(stream, locked_dropout_kernel<E>, elements, output, input, mask, elements);
  else
    launch(stream, repeated_dropout_kernel<E>, elements, output, input, mask, elements, period);
}

#define INSTANTIATE(E) \
  template void multiply_by_mask(cudaStream_t, E*, const E*, const Accumulator<E>*, int64_t, int64_t);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
