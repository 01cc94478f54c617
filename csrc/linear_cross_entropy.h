// linear_cross_entropy: cross_entropy(input W^T + bias, target) without the N x V logits.
//
//   input [N, E], weight [V, E], bias [V] or none, target int64 [N]: 0 .. V-1 or ignore_index. weight and bias may be
//   float32 beside half precision input: weight is rounded for the products, its gradient is not.
//   row_weight [N], float32 (float64 with float64): the gradients are those of sum(row_weight * loss).
//   loss [N] and result: dtype of row_weight; each gradient: of what it belongs to.
//
// A row whose target is ignore_index has loss and gradient zero and costs nothing. With gradient_threshold t > 0 the
// gradients of the logits of one row and 192 neighbouring classes are taken as zero where all are below t times the
// row's weight.
#pragma once

#include <array>
#include <optional>
#include <tuple>

#include "check.h"
#include "lstm.h"

namespace ulmfit_fast {

struct LinearCrossEntropyInputs {
  const Tensor &input, &weight;
  const OptionalTensor& bias;
  const Tensor& target;
  const OptionalTensor& row_weight;
  int64_t ignore_index;
  double label_smoothing, gradient_threshold;
};

enum CrossEntropyNeed { kNeedGradInput, kNeedGradWeight, kNeedGradBias };

inline void check_linear_cross_entropy(const LinearCrossEntropyInputs& a, std::array<bool, 3> needs) {
  constexpr const char* kFunction = "ulmfit_fast.ops.linear_cross_entropy";
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(a.input)), kFunction, ": input must be floating point, got ",
                    dtype_of(a.input));
  ULMFIT_CHECK_VALUE(a.input.dim() == 2, kFunction, ": input must be [rows, features], got ", a.input.sizes(),
                     "; flatten the dimensions before the last");
  ULMFIT_CHECK_VALUE(a.weight.dim() == 2 && a.weight.size(1) == a.input.size(1) && a.weight.numel() > 0, kFunction,
                     ": weight must be [classes, ", a.input.size(1), "] to fit input, got ", a.weight.sizes());
  check_weight(kFunction, "weight", a.weight, a.input);
  if (a.bias.has_value()) {
    check_shape(kFunction, "bias", *a.bias, {a.weight.size(0)});
    check_weight(kFunction, "bias", *a.bias, a.input);
  }
  check_shape(kFunction, "target", a.target, {a.input.size(0)});
  ULMFIT_CHECK_TYPE(dtype_of(a.target) == ScalarType::Long, kFunction, ": target must be int64 class indices, got ",
                    dtype_of(a.target));
  check_device(kFunction, "target", a.target, "input", a.input);
  if (a.row_weight.has_value()) {
    check_shape(kFunction, "row_weight", *a.row_weight, {a.input.size(0)});
    ULMFIT_CHECK_TYPE(dtype_of(*a.row_weight) == state_dtype_of(a.input), kFunction, ": row_weight must be ",
                      state_dtype_of(a.input), ", got ", dtype_of(*a.row_weight));
    check_device(kFunction, "row_weight", *a.row_weight, "input", a.input);
  }
  ULMFIT_CHECK_VALUE(a.row_weight.has_value() || !(needs[0] || needs[1] || needs[2]), kFunction,
                     ": gradients need row_weight");
  ULMFIT_CHECK_VALUE(a.label_smoothing >= 0.0 && a.label_smoothing <= 1.0, kFunction,
                     ": label_smoothing must be in [0, 1], got ", a.label_smoothing);
  ULMFIT_CHECK_VALUE(a.gradient_threshold >= 0.0 && a.gradient_threshold < 1.0, kFunction,
                     ": gradient_threshold must be in [0, 1), got ", a.gradient_threshold);
}

}  // namespace ulmfit_fast
