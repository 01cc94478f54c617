#include "../dropconnect_mask.h"

#include "../common/philox.h"
#include "dropconnect_kernel.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

Tensor dropconnect_mask_cuda(const Tensor& seed, int64_t rows, int64_t columns, double p) {
  check_dropconnect_mask(seed, rows, columns, p);
  const cuda::DeviceGuard guard(seed);
  const Tensor mask = empty({rows, columns}, ScalarType::Bool, seed);
  cuda::draw_mask(cuda::stream_of(seed), mask.mutable_data_ptr<bool>(), seed.const_data_ptr<int64_t>(),
                  keep_threshold(p), mask.numel());
  return mask;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("dropconnect_mask", TORCH_BOX(&dropconnect_mask_cuda));
}

}  // namespace ulmfit_fast
