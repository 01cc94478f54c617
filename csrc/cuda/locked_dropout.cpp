#include "../locked_dropout.h"

#include "locked_dropout_kernel.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using cuda::Accumulator;

Tensor locked_dropout_cuda(const Tensor& input, const Tensor& mask, const Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const cuda::DeviceGuard guard(input);
  const Tensor x = as_contiguous(input), factors = as_contiguous(mask);
  const Tensor output = empty(x.sizes(), dtype_of(x), x);
  const int64_t features = x.size(1), steps = batch_sizes.size(0);
  const int64_t* sizes = batch_sizes.const_data_ptr<int64_t>();
  if (x.numel() == 0) return output;
  const cudaStream_t stream = cuda::stream_of(x);
  cuda::for_dtype("ulmfit_fast.ops.locked_dropout", dtype_of(x), [&]<typename T>() {
    const auto* from = x.const_data_ptr<T>();
    const auto* by = factors.const_data_ptr<Accumulator<T>>();
    auto* to = output.mutable_data_ptr<T>();
    // Runs of steps with as many rows are one launch.
    for (int64_t t = 0, row = 0; t < steps;) {
      int64_t end = t;
      while (end < steps && sizes[end] == sizes[t]) ++end;
      const int64_t elements = (end - t) * sizes[t] * features;
      cuda::multiply_by_mask<T>(stream, to + row * features, from + row * features, by, elements, sizes[t] * features);
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
