#include "../linear.h"

#include "tensors.h"

namespace ulmfit_fast {
namespace {

using namespace cuda;

// By cuBLAS, whose rows may depend on each other in their last bits.
Tensor linear_cuda(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, bool transposed) {
  const LinearInputs a{input, weight, bias, transposed};
  check_linear(a);
  const DeviceGuard guard(input);
  const ScalarType dtype = dtype_of(input);
  for_dtype("ulmfit_fast.ops.linear", dtype, []<typename T>() {});
  const Tensor w = converted(weight, dtype);
  const Tensor product = multiply(as_contiguous(input), transposed ? w : cuda::transposed(w), dtype);
  return bias.has_value() ? sum_of(product, converted(*bias, dtype)) : product;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("linear", TORCH_BOX(&linear_cuda));
}

}  // namespace ulmfit_fast
