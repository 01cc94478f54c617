#include "../dropconnect_mask.h"

#include <torch/library.h>

#include "../common/philox.h"
#include "dropconnect_kernel.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

at::Tensor dropconnect_mask_cuda(const at::Tensor& seed, int64_t rows, int64_t columns, double p) {
  check_dropconnect_mask(seed, rows, columns, p);
  const c10::cuda::CUDAGuard guard(seed.device());
  at::Tensor mask = at::empty({rows, columns}, seed.options().dtype(at::kBool));
  cuda::draw_mask(c10::cuda::getCurrentCUDAStream(), mask.mutable_data_ptr<bool>(), seed.const_data_ptr<int64_t>(),
                  keep_threshold(p), mask.numel());
  return mask;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("dropconnect_mask", &dropconnect_mask_cuda);
}

}  // namespace ulmfit_fast
