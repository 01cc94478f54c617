#include "../locked_dropout.h"

#include "packed_rows_kernels.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using cuda::Accumulator;

Tensor locked_dropout_cuda(const Tensor& input, const Tensor& mask, const Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const cuda::DeviceGuard guard(input);
  const Tensor x = as_contiguous(input), factors = as_contiguous(mask);
  const Tensor output = empty(x.sizes(), dtype_of(x), x);
  const cudaStream_t stream = cuda::stream_of(x);
  cuda::for_dtype("ulmfit_fast.ops.locked_dropout", dtype_of(x), [&]<typename T>() {
    cuda::for_packed_runs(batch_sizes.const_data_ptr<int64_t>(), batch_sizes.size(0),
                          [&](const cuda::PackedRuns& runs) {
                            cuda::multiply_by_mask<T>(stream, output.mutable_data_ptr<T>(), x.const_data_ptr<T>(),
                                                      factors.const_data_ptr<Accumulator<T>>(), x.size(1), runs);
                          });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("locked_dropout", TORCH_BOX(&locked_dropout_cuda));
}

}  // namespace ulmfit_fast
