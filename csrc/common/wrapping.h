// Sums of numbers that a caller gives, such as the steps that a document has had: nonsense in, nonsense out, but
// defined.
#pragma once

#include <cstdint>

namespace ulmfit_fast {

static inline int64_t wrapping_sum(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}

}  // namespace ulmfit_fast
