// linear: input [N, K] times a weight, plus a bias [M]. Shapes and checks that both devices share.
//
//   weight [M, K]         the product is input W^T, as torch's linear; transposed: weight [K, M], input W
//
// On the CPU a row's bits do not depend on the other rows, which a BLAS product does not promise.
#pragma once

#include "lstm.h"

namespace ulmfit_fast {

struct LinearInputs {
  const Tensor& input;
  const Tensor& weight;
  const OptionalTensor& bias;
  bool transposed;

  int64_t rows() const { return input.size(0); }
  int64_t depth() const { return input.size(1); }
  int64_t columns() const { return weight.size(transposed ? 1 : 0); }
};

inline void check_linear(const LinearInputs& a) {
  constexpr const char* kFunction = "ulmfit_fast.ops.linear";
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(a.input)), kFunction, ": input must be floating point, got ",
                    dtype_of(a.input));
  ULMFIT_CHECK_VALUE(a.input.dim() == 2 && a.weight.dim() == 2, kFunction,
                     ": input and weight must be [rows, columns], got ", a.input.sizes(), " and ", a.weight.sizes());
  ULMFIT_CHECK_VALUE(a.weight.size(a.transposed ? 0 : 1) == a.depth(), kFunction, ": weight must take ", a.depth(),
                     " features of input, got shape ", a.weight.sizes(), a.transposed ? " (transposed)" : "");
  check_weight(kFunction, "weight", a.weight, a.input);
  if (!a.bias.has_value()) return;
  check_shape(kFunction, "bias", *a.bias, {a.columns()});
  check_weight(kFunction, "bias", *a.bias, a.input);
}

}  // namespace ulmfit_fast
