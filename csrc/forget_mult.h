// forget_mult: the recurrence of a QRNN layer over packed rows. Shapes, checks and registration that both devices
// share.
//
//   gates [N, 3H]         z, f, o before their non-linearities, packed rows as for lstm (lstm.h); [N, 2H], z and f,
//                         without an output gate (f-pooling; with one it is fo-pooling)
//   batch_sizes [T]       int64 on CPU
//   c0 [B, H]             in the gates' dtype or the sums' (float32 for bfloat16)
//   total .. pool_from    a pooled state (lstm_pool.h) that h goes into: all of them or none
#pragma once

#include <array>
#include <tuple>

#include "lstm_pool.h"

namespace ulmfit_fast {

struct ForgetMultInputs {
  const Tensor& gates;
  const Tensor& batch_sizes;
  const Tensor& c0;
  bool output_gate;

  int64_t steps() const { return batch_sizes.size(0); }
  int64_t rows() const { return gates.size(0); }
  int64_t batch() const { return c0.size(0); }
  int64_t hidden() const { return c0.size(1); }
};

// keep: 0 what is asked for, 1 also each step's cells and, of pooled states, output; 2 cells alone, for backward.
struct ForgetMultKept {
  bool output, cells;

  ForgetMultKept(int64_t keep, bool pooled) : output(!pooled || keep == 1), cells(keep != 0) {}
};

using ForgetMultResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct ForgetMultGradients {
  const OptionalTensor& output;
  const OptionalTensor& h_n;
  const OptionalTensor& c_n;
};

// A device's two functions. The pool is null where nothing is pooled; in backward it holds the state's gradients.
using RunForgetMult = ForgetMultResult(const ForgetMultInputs&, const PoolInputs*, ForgetMultKept);
using RunForgetMultBackward = std::tuple<Tensor, Tensor>(const ForgetMultGradients&, const ForgetMultInputs&,
                                                         const PoolInputs*, int64_t bptt, const Tensor& cells,
                                                         std::array<bool, 2> needs);

inline void check_forget_mult(const char* function, const ForgetMultInputs& a, int64_t bptt) {
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(a.gates)), function, ": gates must be floating point, got ",
                    dtype_of(a.gates));
  ULMFIT_CHECK_VALUE(a.gates.dim() == 2 && a.c0.dim() == 2, function, ": gates and c0 must be [rows, size], got ",
                     a.gates.sizes(), " and ", a.c0.sizes());
  check_batch_sizes(function, a.batch_sizes, a.rows(), "gates");
  const int64_t batch = a.batch_sizes.const_data_ptr<int64_t>()[0], parts = a.output_gate ? 3 : 2;
  ULMFIT_CHECK_VALUE(batch == a.batch(), function, ": c0 must have batch_sizes[0] = ", batch, " rows, got ", a.batch());
  ULMFIT_CHECK_VALUE(a.hidden() > 0, function, ": sizes must be positive, got c0 ", a.c0.sizes());
  ULMFIT_CHECK_VALUE(a.gates.size(1) == parts * a.hidden(), function, ": gates must be ", parts,
                     " times as wide as c0 (", a.hidden(), ")", a.output_gate ? "" : " without an output gate",
                     ", got ", a.gates.size(1));
  if (dtype_of(a.c0) != state_dtype_of(a.gates)) check_like(function, "c0", a.c0, "gates", a.gates);
  check_device(function, "c0", a.c0, "gates", a.gates);
  ULMFIT_CHECK_VALUE(bptt >= 0, function, ": bptt must be 0 (no limit) or positive, got ", bptt);
}

// The pool's inputs, or none where no state is given.
inline std::optional<PoolInputs> checked_pool(const char* function, const ForgetMultInputs& a,
                                              const OptionalTensor& total, const OptionalTensor& maximum,
                                              const OptionalTensor& argmax, const OptionalTensor& count,
                                              const OptionalTensor& pool_from, bool backward) {
  const bool given = argmax.has_value();
  ULMFIT_CHECK_VALUE(given == count.has_value() && given == pool_from.has_value(), function,
                     ": give all of argmax, count and pool_from, or none");
  ULMFIT_CHECK_VALUE(backward ? given || (!total.has_value() && !maximum.has_value())
                              : given == total.has_value() && given == maximum.has_value(),
                     function, ": total and maximum go with argmax, count and pool_from");
  if (!given) return std::nullopt;
  const PoolInputs pool{*argmax, *count, *pool_from, total, maximum};
  check_pool(function, pool, a.batch(), a.hidden(), "gates", a.gates, backward);
  return std::optional<PoolInputs>(pool);
}

template <RunForgetMult run>
ForgetMultResult forget_mult_op(const Tensor& gates, const Tensor& batch_sizes, const Tensor& c0,
                                const OptionalTensor& total, const OptionalTensor& maximum,
                                const OptionalTensor& argmax, const OptionalTensor& count,
                                const OptionalTensor& pool_from, bool output_gate, int64_t bptt, int64_t keep) {
  constexpr const char* kFunction = "ulmfit_fast.ops.forget_mult";
  const ForgetMultInputs a{gates, batch_sizes, c0, output_gate};
  check_forget_mult(kFunction, a, bptt);
  const auto pool = checked_pool(kFunction, a, total, maximum, argmax, count, pool_from, /*backward=*/false);
  return run(a, pool.has_value() ? &*pool : nullptr, ForgetMultKept(keep, pool.has_value()));
}

template <RunForgetMultBackward run>
std::tuple<Tensor, Tensor> forget_mult_backward_op(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                                                   const OptionalTensor& grad_c_n, const OptionalTensor& grad_total,
                                                   const OptionalTensor& grad_maximum, const Tensor& gates,
                                                   const Tensor& batch_sizes, const Tensor& c0,
                                                   const OptionalTensor& argmax, const OptionalTensor& count,
                                                   const OptionalTensor& pool_from, bool output_gate, int64_t bptt,
                                                   const Tensor& cells, const std::vector<bool>& needed) {
  constexpr const char* kFunction = "ulmfit_fast.ops.forget_mult_backward";
  const ForgetMultInputs a{gates, batch_sizes, c0, output_gate};
  check_forget_mult(kFunction, a, bptt);
  const auto pool = checked_pool(kFunction, a, grad_total, grad_maximum, argmax, count, pool_from, /*backward=*/true);
  const auto check = [&](const char* name, const OptionalTensor& tensor, Shape shape) {
    if (!tensor.has_value()) return;
    check_shape(kFunction, name, *tensor, shape);
    check_device(kFunction, name, *tensor, "gates", gates);
  };
  check("grad_output", grad_output, {a.rows(), a.hidden()});
  check("grad_h_n", grad_h_n, {a.batch(), a.hidden()});
  check("grad_c_n", grad_c_n, {a.batch(), a.hidden()});
  check("cells", cells, {a.rows(), a.hidden()});
  ULMFIT_CHECK_TYPE(dtype_of(cells) == state_dtype_of(gates), kFunction, ": cells must be ", state_dtype_of(gates),
                    ", got ", dtype_of(cells));
  return run({grad_output, grad_h_n, grad_c_n}, a, pool.has_value() ? &*pool : nullptr, bptt, cells,
             array_of<2>(needed));
}

}  // namespace ulmfit_fast
