// locked_dropout on CUDA: one thread an element. Limit: memory bandwidth.
#include <ATen/Functions.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../locked_dropout.h"
#include "elements.h"

namespace ulmfit_fast {
namespace {

using cuda::Accumulator;

// output [rows, features] = input * mask, for the rows of one step.
template <typename E>
__global__ void locked_dropout_kernel(E* output, const E* input, const Accumulator<E>* mask, int64_t elements) {
  const int64_t index = cuda::thread_index();
  if (index < elements) output[index] = static_cast<E>(static_cast<Accumulator<E>>(input[index]) * mask[index]);
}

// All steps alike: the mask repeats every `period` elements.
template <typename E>
__global__ void repeated_dropout_kernel(E* output, const E* input, const Accumulator<E>* mask, int64_t elements,
                                        int64_t period) {
  const int64_t index = cuda::thread_index();
  if (index < elements)
    output[index] = static_cast<E>(static_cast<Accumulator<E>>(input[index]) * mask[index % period]);
}

at::Tensor locked_dropout_cuda(const at::Tensor& input, const at::Tensor& mask, const at::Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const c10::cuda::CUDAGuard guard(input.device());
  const at::Tensor x = input.contiguous(), factors = mask.contiguous(), output = at::empty_like(x);
  const int64_t features = x.size(1), steps = batch_sizes.size(0);
  const int64_t* sizes = batch_sizes.const_data_ptr<int64_t>();
  if (x.numel() == 0) return output;
  ULMFIT_DISPATCH_CUDA("locked_dropout", x.scalar_type(), [&] {
    const auto* from = x.const_data_ptr<scalar_t>();
    const auto* by = factors.const_data_ptr<Accumulator<scalar_t>>();
    auto* to = output.mutable_data_ptr<scalar_t>();
    // Runs of steps with as many rows are one launch.
    for (int64_t t = 0, row = 0; t < steps;) {
      int64_t end = t;
      while (end < steps && sizes[end] == sizes[t]) ++end;
      const int64_t elements = (end - t) * sizes[t] * features;
      if (end == t + 1)
        cuda::launch(locked_dropout_kernel<scalar_t>, elements, to + row * features, from + row * features, by,
                     elements);
      else
        cuda::launch(repeated_dropout_kernel<scalar_t>, elements, to + row * features, from + row * features, by,
                     elements, sizes[t] * features);
      row += (end - t) * sizes[t];
      t = end;
    }
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("locked_dropout", &locked_dropout_cuda);
}

}  // namespace ulmfit_fast
