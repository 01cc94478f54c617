// lstm and lstm_pool on CUDA, step by step: one matrix product and one pointwise kernel a step, the large products
// around them at once. For any size, dtype and batch; nothing waits for the device, so that a CUDA graph can hold it.
#include "lstm_call.h"

#include <algorithm>

#include "../common/philox.h"
#include "lstm_kernels.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using namespace cuda;

template <typename T>
const T* pointer(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

// from o M / (1-p) as a tensor of its own, or `from` itself where nothing is dropped; E is its type.
template <typename E>
Tensor dropped(const Tensor& from, const LstmInputs& a) {
  if (a.weight_dropout == 0.0) return from;
  const Tensor to = empty(from.sizes(), dtype_of(from), from);
  const Tensor seed = torch::stable::to(a.seed, from.device(), /*non_blocking=*/true);  // eight bytes, staged at once
  drop<E>(stream_of(from), to.mutable_data_ptr<E>(), from.const_data_ptr<E>(), seed.const_data_ptr<int64_t>(),
          keep_threshold(a.weight_dropout), 1.0 / (1.0 - a.weight_dropout), from.numel());
  return to;
}

// The recurrent weight as the products take it.
template <typename E>
Tensor dropped_weight(const LstmInputs& a) {
  return dropped<E>(converted(a.weight_hh, dtype_of(a.input)), a);
}

// The steps in order of computation.
struct Steps {
  Steps(const LstmInputs& a, bool reverse)
      : count(a.steps()),
        reversed(reverse),
        sizes(a.batch_sizes.const_data_ptr<int64_t>()),
        offsets(row_offsets(a.batch_sizes)) {}

  int64_t at(int64_t s) const { return reversed ? count - 1 - s : s; }
  int64_t rows(int64_t s) const { return s < 0 || s >= count ? 0 : sizes[at(s)]; }
  int64_t first_row(int64_t s) const { return offsets[at(s)]; }
  // Rows of step s that the step before it also had, or that the one after it has.
  int64_t continuing(int64_t s) const { return std::min(rows(s), rows(s - 1)); }
  int64_t continued(int64_t s) const { return std::min(rows(s), rows(s + 1)); }

  const int64_t count;
  const bool reversed;
  const int64_t* sizes;
  const std::vector<int64_t> offsets;
};

template <typename E>
ForwardResult forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const int64_t hidden = a.hidden();
  const bool projected = a.weight_hr.has_value(), keep_output = pool == nullptr || keep != Keep::kNothing;
  const Steps steps(a, reverse);
  const cudaStream_t stream = stream_of(a.input);

  const auto when = [&](bool kept, int64_t width, ScalarType of) {
    return kept ? empty({a.rows(), width}, of, a.input) : empty({0}, of, a.input);
  };
  const Tensor output = when(keep_output, a.output_size(), dtype);
  const Tensor gates = when(keep == Keep::kBackward, 4 * hidden, dtype);
  const Tensor cells = when(keep != Keep::kNothing, hidden, state_dtype);
  // Master weights are rounded to the input's dtype.
  const Tensor from_input = multiply(a.input, transposed(converted(a.weight_ih, dtype)), state_dtype);
  const Tensor weight_hh = transposed(dropped_weight<E>(a));
  OptionalTensor weight_hr, bias;
  if (projected) weight_hr = transposed(converted(*a.weight_hr, dtype));
  if (a.bias_ih.has_value()) bias = sum_of(converted(*a.bias_ih, state_dtype), converted(*a.bias_hh, state_dtype));
  const Tensor h = copied(a.h0, dtype), c = copied(a.c0, state_dtype);
  const Tensor cell_output = projected ? empty({a.batch(), hidden}, dtype, a.input) : h;
  std::optional<PooledState> pooled;
  OptionalTensor count, pool_from;
  PoolStep<Acc> pool_step{};
  if (pool != nullptr) {
    pooled = copied_pool(*pool, state_dtype);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
    pool_step = {pooled->total.mutable_data_ptr<double>(), pooled->maximum.mutable_data_ptr<Acc>(),
                 pooled->argmax.mutable_data_ptr<int32_t>(), pointer<int64_t>(count), pointer<int64_t>(pool_from)};
  }
  for (int64_t s = 0; s < steps.count; ++s) {
    const int64_t rows = steps.rows(s);
    const Tensor from_state = multiply(rows_of(h, 0, rows), weight_hh, state_dtype);
    ForwardStep<E> step{};
    step.rows = rows;
    step.first_row = steps.first_row(s);
    step.hidden = hidden;
    step.step = steps.at(s);
    step.from_input = from_input.const_data_ptr<Acc>();
    step.from_state = from_state.const_data_ptr<Acc>();
    step.bias = pointer<Acc>(bias);
    step.c = c.mutable_data_ptr<Acc>();
    step.cell_output = cell_output.mutable_data_ptr<E>();
    step.output = keep_output && !projected ? output.mutable_data_ptr<E>() : nullptr;
    step.gates = keep == Keep::kBackward ? gates.mutable_data_ptr<E>() : nullptr;
    step.cells = keep != Keep::kNothing ? cells.mutable_data_ptr<Acc>() : nullptr;
    step.pool = pool_step;
    forward_step<E>(stream, step);
    if (!projected) continue;
    const Tensor h_rows = rows_of(h, 0, rows);
    multiply_into(h_rows, rows_of(cell_output, 0, rows), *weight_hr);
    copy_to(rows_of(output, step.first_row, rows), h_rows);
  }
  return {output, h, converted(c, dtype_of(a.c0)), gates, cells, pooled};
}

template <typename E>
Backward backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse, int64_t bptt,
                  const Saved& saved, Needs needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const int64_t hidden = a.hidden(), width = a.output_size();
  const bool projected = a.weight_hr.has_value();
  const Steps steps(a, reverse);
  const cudaStream_t stream = stream_of(a.input);

  const Tensor gates = as_contiguous(saved.gates), cells = as_contiguous(saved.cells);
  const Tensor output = as_contiguous(saved.output), h0 = as_contiguous(a.h0), c0 = converted(a.c0, state_dtype);
  const Tensor weight_hh = dropped_weight<E>(a);
  const OptionalTensor weight_hr = converted(a.weight_hr, dtype);
  const OptionalTensor grad_output = as_contiguous(grads.output), grad_h_n = as_contiguous(grads.h_n);
  const Tensor grad_c =
      grads.c_n.has_value() ? copied(*grads.c_n, state_dtype) : zeros({a.batch(), hidden}, state_dtype, a.input);
  const Tensor grad_h0 = empty({a.batch(), width}, dtype, a.input);
  const Tensor grad_gates = empty({a.rows(), 4 * hidden}, dtype, a.input);
  const auto when = [&](bool needed) {
    return needed ? OptionalTensor(empty({a.rows(), width}, dtype, a.input)) : std::nullopt;
  };
  const OptionalTensor previous_h = when(needs[kNeedWeightHh]), grad_h_rows = when(projected);
  const Tensor grad_h = empty({a.batch(), width}, state_dtype, a.input);
  OptionalTensor grad_total, grad_maximum, argmax, count, pool_from;
  if (pool != nullptr) {
    grad_total = converted(pool->total, state_dtype);
    grad_maximum = as_contiguous(pool->maximum);
    argmax = as_contiguous(pool->argmax);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
  }
  for (int64_t s = steps.count - 1; s >= 0; --s) {
    const int64_t rows = steps.rows(s), first_row = steps.first_row(s);
    const int64_t continued = steps.continued(s), continuing = steps.continuing(s);
    const bool cut = bptt > 0 && (s + 1) % bptt == 0;  // bptt runs forward only: s is the step
    OptionalTensor from_next;
    if (continued > 0 && !cut)
      from_next = multiply(rows_of(grad_gates, steps.first_row(s + 1), continued), weight_hh, state_dtype);
    StateGradient<E> state{};
    state.rows = rows;
    state.first_row = first_row;
    state.width = width;
    state.step = steps.at(s);
    state.continued = continued;
    state.from_next = pointer<Acc>(from_next);
    state.grad_output = pointer<E>(grad_output);
    state.grad_h_n = pointer<E>(grad_h_n);
    state.grad_total = pointer<Acc>(grad_total);
    state.grad_maximum = pointer<Acc>(grad_maximum);
    state.argmax = pointer<int32_t>(argmax);
    state.count = pointer<int64_t>(count);
    state.pool_from = pointer<int64_t>(pool_from);
    state.grad_h = grad_h.mutable_data_ptr<Acc>();
    state.stored = projected ? grad_h_rows->mutable_data_ptr<E>() : nullptr;
    state_gradient<E>(stream, state);
    const Tensor grad_cell_output =
        projected ? multiply(rows_of(*grad_h_rows, first_row, rows), *weight_hr, state_dtype) : grad_h;
    BackwardStep<E> step{};
    step.rows = rows;
    step.first_row = first_row;
    step.hidden = hidden;
    step.continuing = continuing;
    step.previous_row = s > 0 ? steps.first_row(s - 1) : 0;
    step.cut_rows = cut ? continued : 0;
    step.grad_cell_output = grad_cell_output.const_data_ptr<Acc>();
    step.gates = gates.const_data_ptr<E>();
    step.cells = cells.const_data_ptr<Acc>();
    step.c0 = c0.const_data_ptr<Acc>();
    step.grad_c = grad_c.mutable_data_ptr<Acc>();
    step.grad_gates = grad_gates.mutable_data_ptr<E>();
    backward_step<E>(stream, step);
    if (needs[kNeedH0] && rows > continuing)  // rows whose first step of computation this is
      copy_to(rows_of(grad_h0, continuing, rows - continuing),
              multiply(rows_of(grad_gates, first_row + continuing, rows - continuing), weight_hh, state_dtype));
    if (!previous_h.has_value()) continue;
    if (continuing > 0)
      copy_to(rows_of(*previous_h, first_row, continuing), rows_of(output, steps.first_row(s - 1), continuing));
    if (rows > continuing)
      copy_to(rows_of(*previous_h, first_row + continuing, rows - continuing),
              rows_of(h0, continuing, rows - continuing));
  }

  Tensor grad_weight_hh = no_gradient(a.weight_hh);
  Tensor grad_weight_hr = no_gradient(projected ? *a.weight_hr : a.input);
  if (needs[kNeedWeightHh]) {
    grad_weight_hh = multiply(transposed(grad_gates), *previous_h, dtype_of(a.weight_hh));
    grad_weight_hh = dtype_of(a.weight_hh) == dtype ? dropped<E>(grad_weight_hh, a) : dropped<Acc>(grad_weight_hh, a);
  }
  if (needs[kNeedWeightHr]) {
    Tensor all_gates = gates;
    const Tensor o = converted(torch::stable::narrow(all_gates, 1, 3 * hidden, hidden), state_dtype);
    const Tensor cell_output = converted(call("aten::mul", "Tensor", o, call("aten::tanh", "", cells)), dtype);
    grad_weight_hr = multiply(transposed(*grad_h_rows), cell_output, dtype_of(*a.weight_hr));
  }
  const std::array<int64_t, 1> all_rows{0};
  return {needs[kNeedInput] ? multiply(grad_gates, converted(a.weight_ih, dtype), dtype) : no_gradient(a.input),
          needs[kNeedH0] ? grad_h0 : no_gradient(a.h0),
          needs[kNeedH0] ? converted(grad_c, dtype_of(a.c0)) : no_gradient(a.c0),
          needs[kNeedWeightIh] ? multiply(transposed(grad_gates), a.input, dtype_of(a.weight_ih))
                               : no_gradient(a.weight_ih),
          grad_weight_hh,
          needs[kNeedBias] ? converted(torch::stable::sum(grad_gates, Shape(all_rows), /*keepdim=*/false, state_dtype),
                                       dtype_of(a.weight_ih))
                           : no_gradient(a.weight_ih),
          grad_weight_hr};
}

}  // namespace

ForwardResult run_lstm_forward_cuda(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  const DeviceGuard guard(a.input);
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input),
                   [&]<typename T>() { return forward<T>(a, pool, reverse, keep); });
}

Backward run_lstm_backward_cuda(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                                int64_t bptt, const Saved& saved, Needs needs) {
  const DeviceGuard guard(a.input);
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input),
                   [&]<typename T>() { return backward<T>(grads, a, pool, reverse, bptt, saved, needs); });
}

}  // namespace ulmfit_fast
