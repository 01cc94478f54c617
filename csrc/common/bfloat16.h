// bfloat16 as kernels store it: the upper half of a float. Arithmetic happens in float.
#pragma once

#include <cstdint>

namespace ulmfit_fast {

struct Bfloat16 {
  uint16_t bits;
};

// The type in which sums and cell states of elements of type E are held.
template <typename E>
struct AccumulatorOf {
  using type = E;
};
template <>
struct AccumulatorOf<Bfloat16> {
  using type = float;
};
template <typename E>
using Accumulator = typename AccumulatorOf<E>::type;

}  // namespace ulmfit_fast
