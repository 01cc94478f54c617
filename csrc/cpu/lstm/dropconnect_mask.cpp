#include "../../dropconnect_mask.h"

#include "../runtime/elements.h"
#include "../runtime/parallel.h"
#include "dropconnect_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

Tensor dropconnect_mask_cpu(const Tensor& seed, int64_t rows, int64_t columns, double p) {
  check_dropconnect_mask(seed, rows, columns, p);
  ULMFIT_CHECK_VALUE(seed.is_cpu(), "ulmfit_fast.ops.dropconnect_mask: seed must be on CPU, got ", seed.device());
  const Tensor mask = empty({rows, columns}, ScalarType::Bool, seed);
  const DropConnect drop{p, static_cast<uint64_t>(*elements<int64_t>(seed))};
  auto* keep = mutable_elements<uint8_t>(mask);
  const DropConnectKernels& kernels = dropconnect_kernels();
  parallel_for(mask.numel(), kElementsPerTask,
               [&](int64_t begin, int64_t end) { kernels.mask(keep + begin, drop, begin, end - begin); });
  return mask;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("dropconnect_mask", TORCH_BOX(&dropconnect_mask_cpu));
}

}  // namespace ulmfit_fast
