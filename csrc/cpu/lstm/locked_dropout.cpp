#include "../../locked_dropout.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "locked_dropout_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kElementsPerTask = 1 << 15;

at::Tensor locked_dropout_cpu(const at::Tensor& input, const at::Tensor& mask, const at::Tensor& batch_sizes) {
  check_locked_dropout(input, mask, batch_sizes);
  const at::Tensor x = input.contiguous(), factors = mask.contiguous();
  const at::Tensor output = new_tensor(x.sizes(), x.options());
  const std::vector<int64_t> offsets = row_offsets(batch_sizes);
  const int64_t features = x.size(1);
  ULMFIT_DISPATCH("ulmfit_fast.ops.locked_dropout", x.scalar_type(), [&] {
    using E = ElementOf<scalar_t>::type;
    const LockedDropout<E> args{elements<E>(x),
                                elements<Accumulator<E>>(factors),
                                batch_sizes.const_data_ptr<int64_t>(),
                                offsets.data(),
                                batch_sizes.size(0),
                                features,
                                mutable_elements<E>(output)};
    const LockedDropoutKernels<E>& kernels = locked_dropout_kernels<E>();
    at::parallel_for(0, x.size(0), std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(features, 1)),
                     [&](int64_t begin, int64_t end) { kernels.multiply(args, begin, end); });
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("locked_dropout", &locked_dropout_cpu);
}

}  // namespace ulmfit_fast
