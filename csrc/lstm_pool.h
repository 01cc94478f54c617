// lstm_pool: lstm (lstm.h) whose states are pooled over time. Shapes and checks that both devices share.
//
//   The pooled state of D >= B documents; row r of the batch belongs to document r. Acc is float32, or float64 with it.
//   total [D, H] float64     running sum of h: float32 loses the mean of a million steps
//   maximum [D, H] Acc       running maximum of h
//   argmax [D, H] int32      the document's step of the maximum, the first where equal
//   count [D] int64          steps that the document has had before this call
//   pool_from [D] int64      the first step to pool
#pragma once

#include "lstm.h"

namespace ulmfit_fast {

struct PoolInputs {
  const Tensor& argmax;
  const Tensor& count;
  const Tensor& pool_from;
  const OptionalTensor& total;  // the state, or in backward its gradient: none flows
  const OptionalTensor& maximum;
};

// The state as an op returns it, in memory of its own.
struct PooledState {
  Tensor total, maximum, argmax;
};

inline PooledState copied_pool(const PoolInputs& pool, ScalarType state_dtype) {
  return {copied(*pool.total, ScalarType::Double), copied(*pool.maximum, state_dtype),
          copied(pool.argmax, ScalarType::Int)};
}

// `width` is that of the states, `input` the op's first argument, by its name.
inline void check_pool(const char* function, const PoolInputs& pool, int64_t batch, int64_t width,
                       const char* input_name, const Tensor& input, bool backward) {
  const int64_t documents = pool.count.dim() == 1 ? pool.count.size(0) : 0;
  ULMFIT_CHECK_VALUE(documents >= batch, function, ": count must be [documents], one for each of the ", batch,
                     " rows or more, got shape ", pool.count.sizes());
  const auto check = [&](const char* name, const Tensor& tensor, Shape shape, ScalarType dtype) {
    check_shape(function, name, tensor, shape);
    ULMFIT_CHECK_TYPE(dtype_of(tensor) == dtype, function, ": ", name, " must be ", dtype, ", got ", dtype_of(tensor));
    check_device(function, name, tensor, input_name, input);
  };
  const ScalarType state = state_dtype_of(input);
  check(backward ? "argmax_n" : "argmax", pool.argmax, {documents, width}, ScalarType::Int);
  check("count", pool.count, {documents}, ScalarType::Long);
  check("pool_from", pool.pool_from, {documents}, ScalarType::Long);
  if (pool.total.has_value())
    check(backward ? "grad_total_n" : "total", *pool.total, {documents, width}, ScalarType::Double);
  if (pool.maximum.has_value())
    check(backward ? "grad_maximum_n" : "maximum", *pool.maximum, {documents, width}, state);
}

inline void check_pool(const char* function, const PoolInputs& pool, const LstmInputs& a, bool backward) {
  check_pool(function, pool, a.batch(), a.hidden(), "input", a.input, backward);
}

}  // namespace ulmfit_fast
