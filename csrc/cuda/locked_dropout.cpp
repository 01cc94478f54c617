#include "../locked_dropout.h"

#include "locked_dropout_kernel.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using cuda::Accumulator;

Tensor locked_dropout_cuda(const Tensor& input, const Tensor& mask, const Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const c10::cuda::CUDAGuard guard(input.device());
  const Tensor x = input.contiguous(), factors = mask.contiguous(), output = at::empty_like(x);
  const int64_t features = x.size(1), steps = batch_sizes.size(0);
  const int64_t* sizes = batch_sizes.const_data_ptr<int64_t>();
  if (x.numel() == 0) return output;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  ULMFIT_DISPATCH_CUDA("locked_dropout", dtype_of(x), [&] {
    const auto* from = x.const_data_ptr<scalar_t>();
    const auto* by = factors.const_data_ptr<Accumulator<scalar_t>>();
    auto* to = output.mutable_data_ptr<scalar_t>();
    // Runs of steps with as many rows are one launch.
    for (int64_t t = 0, row = 0; t < steps;) {
      int64_t end = t;
      while (end < steps && sizes[end] == sizes[t]) ++end;
      const int64_t elements = (end - t) * sizes[t] * features;
      cuda::multiply_by_mask<scalar_t>(stream, to + row * features, from + row * features, by, elements,
                                       sizes[t] * features);
      row += (end - t) * sizes[t];
      t = end;
    }
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("locked_dropout", TORCH_BOX(&locked_dropout_cuda));
}

}  // namespace ulmfit_fast
