// Argument checks that both devices share. Messages name the function, the argument, what was expected and what came.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace ulmfit_fast {

inline void check_shape(const char* function, const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  TORCH_CHECK_VALUE(tensor.sizes() == expected, function, ": ", name, " must have shape ", expected, ", got ",
                    tensor.sizes());
}

// The dispatcher chooses a kernel by all tensors together, so that any of them may lie elsewhere.
inline void check_device(const char* function, const char* name, const at::Tensor& tensor, const char* like_name,
                         const at::Tensor& like) {
  TORCH_CHECK_VALUE(tensor.device() == like.device(), function, ": ", name, " must be on the device of ", like_name,
                    " (", like.device(), "), got ", tensor.device(), "; move one of them");
}

// Same dtype and device as `like`.
inline void check_like(const char* function, const char* name, const at::Tensor& tensor, const char* like_name,
                       const at::Tensor& like) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), function, ": ", name, " must have the dtype of ",
                   like_name, " (", like.scalar_type(), "), got ", tensor.scalar_type(), "; convert one of them");
  check_device(function, name, tensor, like_name, like);
}

inline void check_drop_probability(const char* function, double p) {
  TORCH_CHECK_VALUE(p >= 0.0 && p < 1.0, function, ": weight_dropout must be in [0, 1), got ", p);
}

inline void check_seed(const char* function, const at::Tensor& seed) {
  TORCH_CHECK_TYPE(seed.scalar_type() == at::kLong, function, ": seed must be an int64 tensor, got ",
                   seed.scalar_type());
  TORCH_CHECK_VALUE(seed.numel() == 1, function, ": seed must hold one element, got shape ", seed.sizes());
}

}  // namespace ulmfit_fast
