// Tensors in memory that is kept for the next call (workspace.h).
#pragma once

#include <ATen/core/Tensor.h>

namespace ulmfit_fast {

at::Tensor new_tensor(at::IntArrayRef shape, const at::TensorOptions& options);

}  // namespace ulmfit_fast
