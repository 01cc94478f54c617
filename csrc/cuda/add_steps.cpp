#include "../add_steps.h"

#include "packed_rows_kernels.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

Tensor add_steps_cuda(const Tensor& count, const Tensor& batch_sizes) {
  check_add_steps(count, batch_sizes);
  const cuda::DeviceGuard guard(count);
  const Tensor result = copied(count, ScalarType::Long);  // of a batch without rows all that is done
  const Tensor before = as_contiguous(count);
  cuda::for_packed_runs(batch_sizes.const_data_ptr<int64_t>(), batch_sizes.size(0), [&](const cuda::PackedRuns& runs) {
    cuda::add_steps(cuda::stream_of(count), result.mutable_data_ptr<int64_t>(), before.const_data_ptr<int64_t>(),
                    runs.runs[0].rows, runs);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("add_steps", TORCH_BOX(&add_steps_cuda));
}

}  // namespace ulmfit_fast
