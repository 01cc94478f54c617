#include "../../dropconnect_mask.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "dropconnect_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

at::Tensor dropconnect_mask_cpu(const at::Tensor& seed, int64_t rows, int64_t columns, double p) {
  check_dropconnect_mask(seed, rows, columns, p);
  at::Tensor mask = at::empty({rows, columns}, seed.options().dtype(at::kBool));
  const DropConnect drop{p, static_cast<uint64_t>(seed.item<int64_t>())};
  uint8_t* keep = reinterpret_cast<uint8_t*>(mask.mutable_data_ptr<bool>());
  const DropConnectKernels& kernels = dropconnect_kernels();
  at::parallel_for(0, mask.numel(), kElementsPerTask,
                   [&](int64_t begin, int64_t end) { kernels.mask(keep + begin, drop, begin, end - begin); });
  return mask;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("dropconnect_mask", &dropconnect_mask_cpu);
}

}  // namespace ulmfit_fast
