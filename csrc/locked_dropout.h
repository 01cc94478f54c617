// locked_dropout: packed rows [N, F] times the mask [B, F] of their sequence, the same at every step.
//
// mask holds 0 or 1 / (1 - p), in float32 (float64 with float64). Its own gradient: the same op on the gradient of the
// rows.
#pragma once

#include "lstm.h"

namespace ulmfit_fast {

inline void check_locked_dropout(const Tensor& input, const Tensor& mask, const Tensor& batch_sizes) {
  constexpr const char* kFunction = "ulmfit_fast.ops.locked_dropout";
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(input)), kFunction, ": input must be floating point, got ", dtype_of(input));
  ULMFIT_CHECK_VALUE(input.dim() == 2 && mask.dim() == 2, kFunction, ": input and mask must be [rows, features], got ",
                     input.sizes(), " and ", mask.sizes());
  ULMFIT_CHECK_TYPE(dtype_of(mask) == state_dtype_of(input), kFunction, ": mask must be ", state_dtype_of(input),
                    " beside input in ", dtype_of(input), ", got ", dtype_of(mask));
  check_device(kFunction, "mask", mask, "input", input);
  check_batch_sizes(kFunction, batch_sizes, input.size(0));
  const int64_t batch = batch_sizes.const_data_ptr<int64_t>()[0];
  ULMFIT_CHECK_VALUE(mask.size(0) >= batch, kFunction, ": mask must have a row for each of the ", batch,
                     " sequences, got ", mask.size(0));
  ULMFIT_CHECK_VALUE(mask.size(1) == input.size(1), kFunction, ": mask must be as wide as input (", input.size(1),
                     "), got ", mask.size(1));
}

}  // namespace ulmfit_fast
