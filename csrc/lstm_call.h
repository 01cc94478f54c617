// From the ops' schemas to a device's kernels: lstm and lstm_pool as functions of the two that a device provides.
#pragma once

#include <array>
#include <tuple>

#include "lstm_pool.h"

namespace ulmfit_fast {

// What forward leaves besides its results; the rest comes back empty.
enum class Keep : int64_t {
  kNothing,   // lstm: the output only; lstm_pool: no states at all
  kStates,    // output and cells of every step
  kBackward,  // also the gates: all that backward needs
};

struct ForwardResult {
  Tensor output, h_n, c_n, gates, cells;
  std::optional<PooledState> pool;  // as it is after the call
};

// `pool` is null without pooling; its tensors are not changed. Arguments are checked by then.
using RunForward = ForwardResult (*)(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);

// What forward kept.
struct Saved {
  const Tensor &output, &gates, &cells;
};

// Gradients of forward's results; none flows into those that are absent.
struct ResultGradients {
  const OptionalTensor &output, &h_n, &c_n;
};

// Indices into `needs`, as the schema orders them.
enum Need { kNeedInput, kNeedH0, kNeedWeightIh, kNeedWeightHh, kNeedBias, kNeedWeightHr };
using Needs = std::array<bool, 6>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// A gradient that nobody needs, of an argument like this one: a tensor of its own, as an op returns none twice.
inline Tensor no_gradient(const Tensor& like) {
  return empty({0}, dtype_of(like), like);
}

// The gradients in the order of the schema, those nobody needs empty. With `pool` the argmax is the one after the call,
// total and maximum are gradients. Gradients do not cross multiples of `bptt` steps, if that is positive.
using RunBackward = Backward (*)(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool,
                                 bool reverse, int64_t bptt, const Saved& saved, Needs needs);

inline void check_backward(const char* function, const ResultGradients& grads, const LstmInputs& a,
                           const Saved& saved) {
  ULMFIT_CHECK_VALUE(saved.gates.size(0) == a.rows(), function, ": gates are empty; call the forward with keep=2");
  check_shape(function, "gates", saved.gates, {a.rows(), 4 * a.hidden()});
  check_shape(function, "cells", saved.cells, {a.rows(), a.hidden()});
  check_shape(function, "output", saved.output, {a.rows(), a.output_size()});
  check_like(function, "gates", saved.gates, "input", a.input);
  ULMFIT_CHECK_TYPE(dtype_of(saved.cells) == state_dtype_of(a.input), function, ": cells must be ",
                    state_dtype_of(a.input), ", got ", dtype_of(saved.cells));
  check_device(function, "cells", saved.cells, "input", a.input);
  check_like(function, "output", saved.output, "input", a.input);
  const auto check_grad = [&](const char* name, const OptionalTensor& grad, Shape shape, const Tensor& like) {
    if (!grad.has_value()) return;
    check_shape(function, name, *grad, shape);
    check_like(function, name, *grad, "its result", like);
  };
  check_grad("grad_output", grads.output, {a.rows(), a.output_size()}, a.input);
  check_grad("grad_h_n", grads.h_n, {a.batch(), a.output_size()}, a.input);
  check_grad("grad_c_n", grads.c_n, {a.batch(), a.hidden()}, a.c0);
}

// The results of a batch without rows: they have no rows either, and the pooled state is as it was.
inline ForwardResult forward_without_rows(const LstmInputs& a, const PoolInputs* pool, Keep keep) {
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const auto when = [&](bool kept, int64_t width, ScalarType of) {
    return kept ? empty({0, width}, of, a.input) : empty({0}, of, a.input);
  };
  return {
      .output = when(pool == nullptr || keep != Keep::kNothing, a.output_size(), dtype),
      .h_n = empty({0, a.output_size()}, dtype, a.input),
      .c_n = empty({0, a.hidden()}, dtype_of(a.c0), a.input),
      .gates = when(keep == Keep::kBackward, 4 * a.hidden(), dtype),
      .cells = when(keep != Keep::kNothing, a.hidden(), state_dtype),
      .pool = pool == nullptr ? std::nullopt : std::optional(copied_pool(*pool, state_dtype)),
  };
}

inline Backward backward_without_rows(const LstmInputs& a, Needs needs) {
  const auto zeros_of = [](bool needed, const Tensor& like) {
    return needed ? zeros(like.sizes(), dtype_of(like), like) : no_gradient(like);
  };
  return {zeros_of(needs[kNeedInput], a.input),
          zeros_of(needs[kNeedH0], a.h0),
          zeros_of(needs[kNeedH0], a.c0),
          zeros_of(needs[kNeedWeightIh], a.weight_ih),
          zeros_of(needs[kNeedWeightHh], a.weight_hh),
          needs[kNeedBias] ? zeros({4 * a.hidden()}, dtype_of(a.weight_ih), a.weight_ih) : no_gradient(a.weight_ih),
          zeros_of(needs[kNeedWeightHr], a.weight_hr.has_value() ? *a.weight_hr : a.input)};
}

template <RunForward run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_op(const Tensor& input, const Tensor& batch_sizes,
                                                           const Tensor& h0, const Tensor& c0, const Tensor& weight_ih,
                                                           const Tensor& weight_hh, const OptionalTensor& bias_ih,
                                                           const OptionalTensor& bias_hh,
                                                           const OptionalTensor& weight_hr, const Tensor& seed,
                                                           double weight_dropout, bool reverse, int64_t bptt,
                                                           int64_t keep) {
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     bias_ih, bias_hh,     weight_hr, seed, weight_dropout};
  check_lstm("ulmfit_fast.ops.lstm", a, reverse, bptt);
  const auto kept = static_cast<Keep>(keep);
  const ForwardResult result = a.rows() == 0 ? forward_without_rows(a, nullptr, kept) : run(a, nullptr, reverse, kept);
  return {result.output, result.h_n, result.c_n, result.gates, result.cells};
}

template <RunBackward run>
Backward lstm_backward_op(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                          const OptionalTensor& grad_c_n, const Tensor& input, const Tensor& batch_sizes,
                          const Tensor& h0, const Tensor& c0, const Tensor& weight_ih, const Tensor& weight_hh,
                          const OptionalTensor& weight_hr, const Tensor& seed, double weight_dropout, bool reverse,
                          int64_t bptt, const Tensor& output, const Tensor& gates, const Tensor& cells,
                          const std::vector<bool>& needed) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_backward";
  Needs needs = array_of<6>(needed);
  const OptionalTensor no_bias;
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     no_bias, no_bias,     weight_hr, seed, weight_dropout};
  check_lstm(kFunction, a, reverse, bptt);
  const ResultGradients grads{grad_output, grad_h_n, grad_c_n};
  const Saved saved{output, gates, cells};
  check_backward(kFunction, grads, a, saved);
  needs[kNeedWeightHr] = needs[kNeedWeightHr] && weight_hr.has_value();
  return a.rows() == 0 ? backward_without_rows(a, needs) : run(grads, a, nullptr, reverse, bptt, saved, needs);
}

template <RunForward run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_pool_op(
    const Tensor& input, const Tensor& batch_sizes, const Tensor& h0, const Tensor& c0, const Tensor& weight_ih,
    const Tensor& weight_hh, const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const Tensor& total,
    const Tensor& maximum, const Tensor& argmax, const Tensor& count, const Tensor& pool_from, const Tensor& seed,
    double weight_dropout, int64_t bptt, int64_t keep) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool";
  const OptionalTensor no_projection, state_total(total), state_maximum(maximum);
  const LstmInputs a{input, batch_sizes,   h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, no_projection,
                     seed,  weight_dropout};
  const PoolInputs pool{argmax, count, pool_from, state_total, state_maximum};
  check_lstm(kFunction, a, false, bptt);
  check_pool(kFunction, pool, a, /*backward=*/false);
  const auto kept = static_cast<Keep>(keep);
  const ForwardResult result = a.rows() == 0 ? forward_without_rows(a, &pool, kept) : run(a, &pool, false, kept);
  return {result.h_n,          result.c_n,    result.pool->total, result.pool->maximum,
          result.pool->argmax, result.output, result.gates,       result.cells};
}

template <RunBackward run>
Backward lstm_pool_backward_op(const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                               const OptionalTensor& grad_total, const OptionalTensor& grad_maximum,
                               const Tensor& input, const Tensor& batch_sizes, const Tensor& h0, const Tensor& c0,
                               const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& argmax,
                               const Tensor& count, const Tensor& pool_from, const Tensor& seed, double weight_dropout,
                               int64_t bptt, const Tensor& output, const Tensor& gates, const Tensor& cells,
                               const std::vector<bool>& needed) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool_backward";
  Needs needs = array_of<6>(needed);
  const OptionalTensor none;
  const LstmInputs a{input, batch_sizes, h0, c0, weight_ih, weight_hh, none, none, none, seed, weight_dropout};
  const PoolInputs pool{argmax, count, pool_from, grad_total, grad_maximum};
  check_lstm(kFunction, a, false, bptt);
  check_pool(kFunction, pool, a, /*backward=*/true);
  const ResultGradients grads{none, grad_h_n, grad_c_n};
  const Saved saved{output, gates, cells};
  check_backward(kFunction, grads, a, saved);
  needs[kNeedWeightHr] = false;
  return a.rows() == 0 ? backward_without_rows(a, needs) : run(grads, a, &pool, false, bptt, saved, needs);
}

}  // namespace ulmfit_fast
