// Tensors in memory that is kept for the next call (workspace.h).
#pragma once

#include <atomic>

#include "../../tensor.h"

namespace ulmfit_fast {

// For tests: what nobody has written holds NaN, as torch does it for its own tensors on request.
inline std::atomic<bool> fill_new_memory{false};

// On the CPU, contents unspecified.
Tensor new_tensor(Shape shape, ScalarType dtype);

// All bytes zero.
void clear(const Tensor& tensor);

}  // namespace ulmfit_fast
