#include "../../locked_dropout.h"

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "locked_dropout_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 15;

Tensor locked_dropout_cpu(const Tensor& input, const Tensor& mask, const Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const Tensor x = as_contiguous(input), factors = as_contiguous(mask);
  const Tensor output = new_tensor(x.sizes(), dtype_of(x));
  const std::vector<int64_t> offsets = row_offsets(batch_sizes);
  const int64_t features = x.size(1);
  for_dtype("ulmfit_fast.ops.locked_dropout", dtype_of(x), [&]<typename T>() {
    using E = ElementOf<T>::type;
    const LockedDropout<E> args{elements<E>(x),
                                elements<Accumulator<E>>(factors),
                                elements<int64_t>(batch_sizes),
                                offsets.data(),
                                batch_sizes.size(0),
                                features,
                                mutable_elements<E>(output)};
    const LockedDropoutKernels<E>& kernels = locked_dropout_kernels<E>();
    parallel_for(x.size(0), std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                 [&](int64_t begin, int64_t end) { kernels.multiply(args, begin, end); });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("locked_dropout", TORCH_BOX(&locked_dropout_cpu));
}

}  // namespace ulmfit_fast
