// embedding: rows of a weight [V, E] by token, each times its token's mask: output [N, E].
//
// tokens int64 [N] in 0 .. V-1. mask [V] or none, float32 (float64 with float64): 0, or 1 / (1 - p) where a token's row
// is kept. Backward: grad_weight [V, E], zero for tokens that do not occur; deterministic.
#pragma once

#include "lstm.h"

namespace ulmfit_fast {

inline void check_embedding(const char* function, const Tensor& tokens, const Tensor& weight,
                            const OptionalTensor& mask) {
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(weight)), function, ": weight must be floating point, got ", dtype_of(weight));
  ULMFIT_CHECK_VALUE(weight.dim() == 2, function, ": weight must be [tokens known, features], got ", weight.sizes());
  ULMFIT_CHECK_TYPE(dtype_of(tokens) == ScalarType::Long, function, ": tokens must be int64, got ", dtype_of(tokens));
  ULMFIT_CHECK_VALUE(tokens.dim() == 1, function, ": tokens must be one-dimensional, got ", tokens.sizes());
  check_device(function, "tokens", tokens, "weight", weight);
  if (!mask.has_value()) return;
  check_shape(function, "mask", *mask, {weight.size(0)});
  ULMFIT_CHECK_TYPE(dtype_of(*mask) == state_dtype_of(weight), function, ": mask must be ", state_dtype_of(weight),
                    " beside weight in ", dtype_of(weight), ", got ", dtype_of(*mask));
  check_device(function, "mask", *mask, "weight", weight);
}

inline void check_embedding_backward(const Tensor& grad, const Tensor& tokens, const OptionalTensor& mask,
                                     int64_t known) {
  constexpr const char* kFunction = "ulmfit_fast.ops.embedding_backward";
  ULMFIT_CHECK_VALUE(grad.dim() == 2 && tokens.dim() == 1 && grad.size(0) == tokens.size(0), kFunction,
                     ": grad must have a row for each token, got ", grad.sizes(), " for ", tokens.sizes());
  ULMFIT_CHECK_TYPE(dtype_of(tokens) == ScalarType::Long, kFunction, ": tokens must be int64, got ", dtype_of(tokens));
  check_device(kFunction, "tokens", tokens, "grad", grad);
  if (!mask.has_value()) return;
  check_shape(kFunction, "mask", *mask, {known});
  ULMFIT_CHECK_TYPE(dtype_of(*mask) == state_dtype_of(grad), kFunction, ": mask must be ", state_dtype_of(grad),
                    " beside grad in ", dtype_of(grad), ", got ", dtype_of(*mask));
  check_device(kFunction, "mask", *mask, "grad", grad);
}

}  // namespace ulmfit_fast
