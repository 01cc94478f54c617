// Tensors in memory that is kept for the next call (workspace.h).
#pragma once

#include "../../tensor.h"

namespace ulmfit_fast {

// On the CPU, contents unspecified.
Tensor new_tensor(Shape shape, ScalarType dtype);

// All bytes zero.
void clear(const Tensor& tensor);

}  // namespace ulmfit_fast
