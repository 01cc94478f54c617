// Weights as the kernels read them, and where their gradients go.
#pragma once

#include "../../common/bfloat16.h"
#include "../../common/philox.h"  // ULMFIT_ALWAYS_INLINE

namespace ulmfit_fast {

// A weight [rows, columns], or where its gradient goes: of the kernel's type or of the wider one that master weights
// have beside half precision. The other pointer is null.
template <typename Own, typename Master>
struct WeightOf {
  Own* own = nullptr;
  Master* master = nullptr;

  ULMFIT_ALWAYS_INLINE explicit operator bool() const { return own != nullptr || master != nullptr; }
};
template <typename E>
using Weight = WeightOf<const E, const Accumulator<E>>;
template <typename E>
using WeightGradient = WeightOf<E, Accumulator<E>>;

}  // namespace ulmfit_fast
