// add_steps: count int64 [D] and, of its first documents, the steps of each sequence of a packed batch, row r's
// document being r. In memory of its own.
#pragma once

#include "lstm.h"

namespace ulmfit_fast {

inline void check_add_steps(const Tensor& count, const Tensor& batch_sizes) {
  constexpr const char* kFunction = "ulmfit_fast.ops.add_steps";
  ULMFIT_CHECK_TYPE(dtype_of(count) == ScalarType::Long, kFunction, ": count must be int64, got ", dtype_of(count));
  ULMFIT_CHECK_VALUE(batch_sizes.is_cpu() && batch_sizes.dim() == 1 && batch_sizes.is_contiguous(), kFunction,
                     ": batch_sizes must be one-dimensional, contiguous and on CPU, got shape ", batch_sizes.sizes(),
                     " on ", batch_sizes.device());
  ULMFIT_CHECK_TYPE(dtype_of(batch_sizes) == ScalarType::Long, kFunction, ": batch_sizes must be int64, got ",
                    dtype_of(batch_sizes));
  const int64_t steps = batch_sizes.size(0);
  const int64_t* sizes = batch_sizes.const_data_ptr<int64_t>();
  for (int64_t t = 1; t < steps; ++t)
    ULMFIT_CHECK_VALUE(sizes[t] <= sizes[t - 1], kFunction, ": batch_sizes must not increase, got ", sizes[t - 1],
                       " then ", sizes[t], " at step ", t, "; sort the sequences longest first");
  ULMFIT_CHECK_VALUE(count.dim() == 1 && (steps == 0 || count.size(0) >= sizes[0]), kFunction,
                     ": count must be [documents], one for each of the ", steps == 0 ? 0 : sizes[0],
                     " rows or more, got shape ", count.sizes());
}

}  // namespace ulmfit_fast
