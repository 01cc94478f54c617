// dropconnect_mask: which elements of a [rows, columns] weight DropConnect keeps, as a bool tensor.
//
// keep(i, j) = philox4x32_10(key = seed, counter = e / 4)[e % 4] >= p * 2^32 with e = i * columns + j: the same bits on
// every device, in any layout, for any thread count.
#pragma once

#include "check.h"

namespace ulmfit_fast {

inline void check_dropconnect_mask(const Tensor& seed, int64_t rows, int64_t columns, double p) {
  constexpr const char* kFunction = "ulmfit_fast.ops.dropconnect_mask";
  check_seed(kFunction, seed);
  check_drop_probability(kFunction, p);
  ULMFIT_CHECK_VALUE(rows >= 0 && columns >= 0, kFunction, ": rows and columns must not be negative, got ", rows,
                     " and ", columns);
}

}  // namespace ulmfit_fast
