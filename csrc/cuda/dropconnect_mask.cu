// dropconnect_mask on CUDA: one thread computes the four bits of one counter. Limit: integer multiplies (20 a counter).
// Deterministic; the same bits as on CPU.
#include <ATen/Functions.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../dropconnect_mask.h"
#include "elements.h"

namespace ulmfit_fast {
namespace {

// keep [elements] is written whole; seed is read on the device, so that no call waits for it.
__global__ void mask_kernel(bool* keep, const int64_t* seed, uint64_t threshold, int64_t elements) {
  const int64_t counter = cuda::thread_index();
  if (counter * 4 >= elements) return;
  uint32_t bits[4];
  philox4x32(static_cast<uint64_t>(*seed), static_cast<uint64_t>(counter), bits);
  for (int i = 0; i < 4 && counter * 4 + i < elements; ++i) keep[counter * 4 + i] = bits[i] >= threshold;
}

at::Tensor dropconnect_mask_cuda(const at::Tensor& seed, int64_t rows, int64_t columns, double p) {
  check_dropconnect_mask(seed, rows, columns, p);
  const c10::cuda::CUDAGuard guard(seed.device());
  at::Tensor mask = at::empty({rows, columns}, seed.options().dtype(at::kBool));
  const int64_t elements = mask.numel();
  cuda::launch(mask_kernel, (elements + 3) / 4, mask.mutable_data_ptr<bool>(), seed.const_data_ptr<int64_t>(),
               keep_threshold(p), elements);
  return mask;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("dropconnect_mask", &dropconnect_mask_cuda);
}

}  // namespace ulmfit_fast
