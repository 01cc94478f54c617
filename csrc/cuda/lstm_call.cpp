// lstm and lstm_pool on CUDA, step by step: one matrix product and one pointwise kernel a step (with a projection, two
// of each), the large products around them at once. Where gradients stop every `bptt` steps, the chunks between run
// side by side. For any size, dtype and batch; nothing waits for the device, so that a CUDA graph can hold it. Where
// that is allowed, forward takes one launch for all steps (persistent_forward.h) or one a step (fused_forward.h), and
// backward products of our own (fused_backward.h).
#include "lstm_call.h"

#include <algorithm>

#include "../common/philox.h"
#include "fused_backward.h"
#include "fused_check.h"
#include "fused_forward.h"
#include "lstm_kernels.h"
#include "lstm_steps.h"
#include "packed_rows_kernels.h"
#include "persistent_check.h"
#include "persistent_forward.h"
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
  const Seed seed(a.seed);
  drop<E>(stream_of(from), to.mutable_data_ptr<E>(), from.const_data_ptr<E>(), seed.there, seed.value,
          keep_threshold(a.weight_dropout), 1.0 / (1.0 - a.weight_dropout), from.numel());
  return to;
}

// The recurrent weight as the products take it.
template <typename E>
Tensor dropped_weight(const LstmInputs& a) {
  return dropped<E>(converted(a.weight_hh, dtype_of(a.input)), a);
}

template <typename E>
ForwardResult forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep, const Recurrence& how) {
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
  ForwardStep<E> step{};
  step.hidden = hidden;
  step.from_input = from_input.const_data_ptr<Acc>();
  step.bias = pointer<Acc>(bias);
  step.c = c.mutable_data_ptr<Acc>();
  step.cell_output = cell_output.mutable_data_ptr<E>();
  step.output = keep_output && !projected ? output.mutable_data_ptr<E>() : nullptr;
  step.gates = keep == Keep::kBackward ? gates.mutable_data_ptr<E>() : nullptr;
  step.cells = keep != Keep::kNothing ? cells.mutable_data_ptr<Acc>() : nullptr;
  step.pool = pool_step;
  const auto result = [&] { return ForwardResult{output, h, converted(c, dtype_of(a.c0)), gates, cells, pooled}; };
  if (run_persistent<E>(a, steps, step, h, how)) return result();
  if (how.must_persist) throw std::runtime_error("the device has no room for it");

  const std::optional<FusedForward<E>> fused = FusedForward<E>::of(a, steps, output, how);
  OptionalTensor weight_hh;
  if (!fused) weight_hh = transposed(dropped_weight<E>(a));
  for (int64_t s = 0; s < steps.count; ++s) {
    const int64_t rows = steps.rows(s);
    step.rows = rows;
    step.first_row = step.output_row = steps.first_row(s);
    step.step = steps.at(s);
    if (fused) {
      fused->run(stream, step, s);
      continue;
    }
    const Tensor from_state = multiply(rows_of(h, 0, rows), *weight_hh, state_dtype);
    step.from_state = from_state.const_data_ptr<Acc>();
    forward_step<E>(stream, step);
    if (!projected) continue;
    const Tensor h_rows = rows_of(h, 0, rows);
    multiply_into(h_rows, rows_of(cell_output, 0, rows), *weight_hr);
    copy_to(rows_of(output, step.first_row, rows), h_rows);
  }
  return result();
}

// The groups of rows of each step of backward, in order of computation.
class BackwardSteps {
 public:
  BackwardSteps(const Steps& steps, int64_t bptt)
      : steps_(steps), length_(bptt > 0 ? std::min(bptt, steps.count) : steps.count) {
    for (int64_t first = 0; first < steps.count; first += length_) {
      states_.push_back(state_rows_);
      state_rows_ += steps.rows(first + (steps.reversed ? length_ - 1 : 0));
    }
  }

  int64_t length() const { return length_; }          // steps of a chunk
  int64_t state_rows() const { return state_rows_; }  // sequences of all chunks
  bool side_by_side() const { return states_.size() > 1; }

  // Those of step j of each chunk; they count `rows` in all, `continued` of which have a step j + 1 in the same chunk.
  struct Step {
    std::vector<StepRows> groups;
    int64_t rows = 0, continued = 0;
  };
  Step at(int64_t j) const {
    Step step;
    for (size_t chunk = 0; chunk < states_.size(); ++chunk) {
      const int64_t s = static_cast<int64_t>(chunk) * length_ + j;
      if (s >= steps_.count) break;
      const int64_t continued = j + 1 < length_ ? steps_.continued(s) : 0;
      StepRows group{};
      group.begin = step.rows;
      group.row = steps_.first_row(s);
      group.step = steps_.at(s);
      group.state = states_[chunk];
      group.previous_row = s > 0 ? steps_.first_row(s - 1) : 0;
      group.continuing = steps_.continuing(s);
      group.next = step.continued;
      group.continued = continued;
      group.going_on = steps_.continued(s);
      step.groups.push_back(group);
      step.rows += steps_.rows(s);
      step.continued += continued;
    }
    return step;
  }

 private:
  const Steps& steps_;
  int64_t length_, state_rows_ = 0;
  std::vector<int64_t> states_;  // where each chunk's gradients of cell states begin
};

// grad_gates^T x what each row computed with, h of the step before.
template <typename E>
Tensor weight_hh_gradient(const LstmInputs& a, const Steps& steps, const Tensor& grad_gates, const Tensor& output) {
  const Tensor h0 = as_contiguous(a.h0);
  const int64_t rows = a.rows(), batch = a.batch(), later = rows - batch;
  const ScalarType sums = state_dtype_of(a.input);
  if (steps.rows(0) == steps.rows(steps.count - 1)) {  // all but the first step's h lie there already
    const int64_t first = steps.first_row(0);
    const Tensor of_first = multiply(transposed(rows_of(grad_gates, first, batch)), h0, sums);
    if (later == 0) return of_first;
    const Tensor gates = rows_of(grad_gates, steps.reversed ? 0 : batch, later);
    return sum_of(multiply(transposed(gates), rows_of(output, steps.reversed ? batch : 0, later), sums), of_first);
  }
  const Tensor previous = empty({rows, a.output_size()}, dtype_of(a.input), a.input);
  for_packed_runs(steps.sizes, steps.count, [&](const PackedRuns& runs) {
    previous_rows<E>(stream_of(a.input), previous.mutable_data_ptr<E>(), output.const_data_ptr<E>(),
                     h0.const_data_ptr<E>(), a.output_size(), steps.reversed, runs);
  });
  return multiply(transposed(grad_gates), previous, sums);
}

template <typename E>
Backward backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse, int64_t bptt,
                  const Saved& saved, Needs needs, const Recurrence& how) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const int64_t hidden = a.hidden(), width = a.output_size();
  const bool projected = a.weight_hr.has_value();
  const Steps steps(a, reverse);
  const BackwardSteps chunks(steps, bptt);  // bptt runs forward only
  const cudaStream_t stream = stream_of(a.input);
  const auto rows_like = [&](bool needed, int64_t rows, int64_t columns) {
    return needed ? OptionalTensor(empty({rows, columns}, dtype, a.input)) : std::nullopt;
  };
  const auto mutable_pointer = [](const OptionalTensor& tensor) {
    return tensor.has_value() ? tensor->mutable_data_ptr<E>() : nullptr;
  };

  const Tensor gates = as_contiguous(saved.gates), cells = as_contiguous(saved.cells);
  const Tensor output = as_contiguous(saved.output), c0 = converted(a.c0, state_dtype);
  std::optional<FusedBackward<E>> fused = FusedBackward<E>::of(a, chunks.state_rows(), how);
  OptionalTensor weight_hh;
  if (!fused || needs[kNeedH0]) weight_hh = dropped_weight<E>(a);
  const OptionalTensor weight_hr = converted(a.weight_hr, dtype);
  const OptionalTensor grad_output = as_contiguous(grads.output), grad_h_n = as_contiguous(grads.h_n);
  const OptionalTensor grad_c_n = converted(grads.c_n, state_dtype);
  const Tensor grad_c = empty({chunks.state_rows(), hidden}, state_dtype, a.input);
  const Tensor grad_gates = empty({a.rows(), 4 * hidden}, dtype, a.input);
  const OptionalTensor grad_h_rows = rows_like(projected, a.rows(), width);
  // The chunks' rows of a step as one matrix; without chunks they lie so in the packed batch.
  const OptionalTensor together = rows_like(chunks.side_by_side(), chunks.state_rows(), 4 * hidden);
  const OptionalTensor h_together = rows_like(chunks.side_by_side() && projected, chunks.state_rows(), width);
  // Of each sequence's first computed step; running forward these are the first rows.
  const OptionalTensor first = rows_like(needs[kNeedH0] && reverse, a.batch(), 4 * hidden);
  OptionalTensor grad_total, grad_maximum, argmax, count, pool_from;
  if (pool != nullptr) {
    grad_total = converted(pool->total, state_dtype);
    grad_maximum = as_contiguous(pool->maximum);
    argmax = as_contiguous(pool->argmax);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
  }
  BackwardStep<E> step{};
  step.hidden = hidden;
  step.state.width = width;
  step.state.parts = 1;
  step.state.scale = 1;
  step.state.grad_output = pointer<E>(grad_output);
  step.state.grad_h_n = pointer<E>(grad_h_n);
  step.state.grad_total = pointer<Acc>(grad_total);
  step.state.grad_maximum = pointer<Acc>(grad_maximum);
  step.state.argmax = pointer<int32_t>(argmax);
  step.state.count = pointer<int64_t>(count);
  step.state.pool_from = pointer<int64_t>(pool_from);
  step.gates = gates.const_data_ptr<E>();
  step.cells = cells.const_data_ptr<Acc>();
  step.c0 = c0.const_data_ptr<Acc>();
  step.grad_c_n = pointer<Acc>(grad_c_n);
  step.grad_c = grad_c.mutable_data_ptr<Acc>();
  step.grad_gates = grad_gates.mutable_data_ptr<E>();
  step.together = mutable_pointer(together);
  step.first = mutable_pointer(first);
  for (int64_t j = chunks.length() - 1; j >= 0; --j) {
    const BackwardSteps::Step at = chunks.at(j);
    const int groups = static_cast<int>(at.groups.size());
    OptionalTensor from_next, grad_cell_output;
    step.state.from_next = nullptr;
    if (at.continued > 0) {
      const Tensor after = together.has_value() ? rows_of(*together, 0, at.continued)
                                                : rows_of(grad_gates, steps.first_row(j + 1), at.continued);
      if (fused) {
        fused->run(stream, after, step.state);
      } else {
        from_next = multiply(after, *weight_hh, state_dtype);
        step.state.from_next = pointer<Acc>(from_next);
      }
    }
    if (projected) {
      state_gradient<E>(stream, step.state, mutable_pointer(grad_h_rows), mutable_pointer(h_together), at.groups.data(),
                        groups, at.rows);
      const Tensor grad_h =
          h_together.has_value() ? rows_of(*h_together, 0, at.rows) : rows_of(*grad_h_rows, at.groups[0].row, at.rows);
      grad_cell_output = multiply(grad_h, *weight_hr, state_dtype);
      step.grad_cell_output = pointer<Acc>(grad_cell_output);
    }
    backward_step<E>(stream, step, at.groups.data(), groups, at.rows);
  }

  Tensor grad_weight_hh = no_gradient(a.weight_hh);
  Tensor grad_weight_hr = no_gradient(projected ? *a.weight_hr : a.input);
  if (needs[kNeedWeightHh])
    grad_weight_hh =
        converted(dropped<Acc>(weight_hh_gradient<E>(a, steps, grad_gates, output), a), dtype_of(a.weight_hh));
  if (needs[kNeedWeightHr]) {
    Tensor all_gates = gates;
    const Tensor o = converted(torch::stable::narrow(all_gates, 1, 3 * hidden, hidden), state_dtype);
    const Tensor cell_output = converted(call("aten::mul", "Tensor", o, call("aten::tanh", "", cells)), dtype);
    grad_weight_hr = multiply(transposed(*grad_h_rows), cell_output, dtype_of(*a.weight_hr));
  }
  const auto first_gates = [&] { return first.has_value() ? *first : rows_of(grad_gates, 0, a.batch()); };
  const std::array<int64_t, 1> all_rows{0};
  return {needs[kNeedInput] ? multiply(grad_gates, converted(a.weight_ih, dtype), dtype) : no_gradient(a.input),
          needs[kNeedH0] ? multiply(first_gates(), *weight_hh, dtype) : no_gradient(a.h0),
          needs[kNeedH0] ? copied(rows_of(grad_c, 0, a.batch()), dtype_of(a.c0)) : no_gradient(a.c0),
          needs[kNeedWeightIh] ? multiply(transposed(grad_gates), a.input, dtype_of(a.weight_ih))
                               : no_gradient(a.weight_ih),
          grad_weight_hh,
          needs[kNeedBias] ? converted(torch::stable::sum(grad_gates, Shape(all_rows), /*keepdim=*/false, state_dtype),
                                       dtype_of(a.weight_ih))
                           : no_gradient(a.weight_ih),
          grad_weight_hr};
}

}  // namespace

ForwardResult cuda::run_lstm_forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep,
                                     const Recurrence& how) {
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input),
                   [&]<typename T>() { return forward<T>(a, pool, reverse, keep, how); });
}

ForwardResult run_lstm_forward_cuda(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  const DeviceGuard guard(a.input);
  check_persistent(a.input);
  return run_lstm_forward(a, pool, reverse, keep, {.fused = may_fuse(a), .status = may_persist(a)});
}

Backward cuda::run_lstm_backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool,
                                 bool reverse, int64_t bptt, const Saved& saved, Needs needs, const Recurrence& how) {
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input),
                   [&]<typename T>() { return backward<T>(grads, a, pool, reverse, bptt, saved, needs, how); });
}

Backward run_lstm_backward_cuda(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                                int64_t bptt, const Saved& saved, Needs needs) {
  const DeviceGuard guard(a.input);
  check_persistent(a.input);
  return run_lstm_backward(grads, a, pool, reverse, bptt, saved, needs, {.fused = may_fuse(a)});
}

}  // namespace ulmfit_fast
