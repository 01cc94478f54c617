#include "../../add_steps.h"

#include "../../common/wrapping.h"
#include "../runtime/elements.h"

namespace ulmfit_fast {
namespace {

Tensor add_steps_cpu(const Tensor& count, const Tensor& batch_sizes) {
  check_add_steps(count, batch_sizes);
  const Tensor result = copied(count, ScalarType::Long);
  int64_t* counts = mutable_elements<int64_t>(result);
  const int64_t* sizes = elements<int64_t>(batch_sizes);
  const int64_t steps = batch_sizes.size(0);
  for (int64_t t = steps, r = 0; t > 0; --t)  // step t - 1 is the last one of the rows that step t has not
    for (; r < sizes[t - 1]; ++r) counts[r] = wrapping_sum(counts[r], t);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("add_steps", TORCH_BOX(&add_steps_cpu));
}

}  // namespace ulmfit_fast
