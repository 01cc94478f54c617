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
const T* pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <typename T>
T* mutable_pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

Tensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->contiguous() : Tensor();
}

Tensor copy_as(const Tensor& tensor, ScalarType dtype) {
  return tensor.to(dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
}

// from o M / (1-p) as a tensor of its own, or `from` itself where nothing is dropped; E is its type.
template <typename E>
Tensor dropped(const Tensor& from, const LstmInputs& a) {
  if (a.weight_dropout == 0.0) return from;
  const Tensor to = at::empty_like(from);
  const Tensor seed = a.seed.to(from.device(), ScalarType::Long, /*non_blocking=*/true);  // eight bytes, staged at once
  drop<E>(c10::cuda::getCurrentCUDAStream(), to.mutable_data_ptr<E>(), from.const_data_ptr<E>(),
          seed.const_data_ptr<int64_t>(), keep_threshold(a.weight_dropout), 1.0 / (1.0 - a.weight_dropout),
          from.numel());
  return to;
}

// The recurrent weight as the products take it.
template <typename E>
Tensor dropped_weight(const LstmInputs& a) {
  return dropped<E>(a.weight_hh.to(dtype_of(a.input)).contiguous(), a);
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
  const ScalarType state_dtype = state_dtype_of(a.input);
  const at::TensorOptions options = a.input.options(), state_options = options.dtype(state_dtype);
  const int64_t hidden = a.hidden();
  const bool projected = a.weight_hr.has_value(), keep_output = pool == nullptr || keep != Keep::kNothing;
  const Steps steps(a, reverse);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();

  ForwardResult result;
  const auto when = [&](bool kept, int64_t width, const at::TensorOptions& like) {
    return kept ? at::empty({a.rows(), width}, like) : at::empty({0}, like);
  };
  result.output = when(keep_output, a.output_size(), options);
  result.gates = when(keep == Keep::kBackward, 4 * hidden, options);
  result.cells = when(keep != Keep::kNothing, hidden, state_options);
  const ScalarType dtype = dtype_of(a.input);  // master weights are rounded to it
  const Tensor from_input = multiply(a.input, a.weight_ih.to(dtype).t(), state_dtype);
  const Tensor weight_hh = dropped_weight<E>(a).t();
  const Tensor bias = a.bias_ih.has_value() ? a.bias_ih->to(state_dtype).add(a.bias_hh->to(state_dtype)) : Tensor();
  const Tensor h = copy_as(a.h0, dtype_of(a.input)), c = copy_as(a.c0, state_dtype);
  const Tensor cell_output = projected ? at::empty({a.batch(), hidden}, options) : h;
  Tensor count, pool_from;
  PoolStep<Acc> pool_step{};
  if (pool != nullptr) {
    result.total = copy_as(*pool->total, ScalarType::Double);
    result.maximum = copy_as(*pool->maximum, state_dtype);
    result.argmax = copy_as(pool->argmax, ScalarType::Int);
    count = pool->count.contiguous();
    pool_from = pool->pool_from.contiguous();
    pool_step = {mutable_pointer<double>(result.total), mutable_pointer<Acc>(result.maximum),
                 mutable_pointer<int32_t>(result.argmax), pointer<int64_t>(count), pointer<int64_t>(pool_from)};
  }
  for (int64_t s = 0; s < steps.count; ++s) {
    const int64_t rows = steps.rows(s);
    const Tensor from_state = multiply(h.narrow(0, 0, rows), weight_hh, state_dtype);
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
    step.output = keep_output && !projected ? result.output.mutable_data_ptr<E>() : nullptr;
    step.gates = keep == Keep::kBackward ? result.gates.mutable_data_ptr<E>() : nullptr;
    step.cells = keep != Keep::kNothing ? result.cells.mutable_data_ptr<Acc>() : nullptr;
    step.pool = pool_step;
    forward_step<E>(stream, step);
    if (!projected) continue;
    Tensor h_rows = h.narrow(0, 0, rows);
    at::mm_out(h_rows, cell_output.narrow(0, 0, rows), a.weight_hr->to(dtype).t());
    result.output.narrow(0, step.first_row, rows).copy_(h_rows);
  }
  result.h_n = h;
  result.c_n = c.to(dtype_of(a.c0));
  return result;
}

template <typename E>
Backward backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse, int64_t bptt,
                  const Saved& saved, Needs needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const at::TensorOptions options = a.input.options(), state_options = options.dtype(state_dtype);
  const int64_t hidden = a.hidden(), width = a.output_size();
  const bool projected = a.weight_hr.has_value();
  const Steps steps(a, reverse);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();

  const Tensor gates = saved.gates.contiguous(), cells = saved.cells.to(state_dtype).contiguous();
  const Tensor output = saved.output.contiguous(), h0 = a.h0.contiguous();
  const Tensor c0 = a.c0.to(state_dtype).contiguous();
  const Tensor weight_hh = dropped_weight<E>(a);
  const Tensor grad_output = contiguous(grads.output), grad_h_n = contiguous(grads.h_n);
  const Tensor grad_c =
      grads.c_n.has_value() ? copy_as(*grads.c_n, state_dtype) : at::zeros({a.batch(), hidden}, state_options);
  const Tensor grad_h0 = at::empty({a.batch(), width}, options);
  const Tensor grad_gates = at::empty({a.rows(), 4 * hidden}, options);
  const Tensor previous_h = needs[kNeedWeightHh] ? at::empty({a.rows(), width}, options) : Tensor();
  const Tensor grad_h_rows = projected ? at::empty({a.rows(), width}, options) : Tensor();
  const Tensor grad_h = at::empty({a.batch(), width}, state_options);
  Tensor grad_total, grad_maximum, argmax, count, pool_from;
  if (pool != nullptr) {
    if (pool->total.has_value()) grad_total = pool->total->to(state_dtype).contiguous();
    grad_maximum = contiguous(pool->maximum);
    argmax = pool->argmax.contiguous();
    count = pool->count.contiguous();
    pool_from = pool->pool_from.contiguous();
  }
  for (int64_t s = steps.count - 1; s >= 0; --s) {
    const int64_t rows = steps.rows(s), first_row = steps.first_row(s);
    const int64_t continued = steps.continued(s), continuing = steps.continuing(s);
    const bool cut = bptt > 0 && (s + 1) % bptt == 0;  // bptt runs forward only: s is the step
    Tensor from_next;
    if (continued > 0 && !cut)
      from_next = multiply(grad_gates.narrow(0, steps.first_row(s + 1), continued), weight_hh, state_dtype);
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
    state.stored = mutable_pointer<E>(grad_h_rows);
    state_gradient<E>(stream, state);
    const Tensor grad_cell_output =
        projected ? multiply(grad_h_rows.narrow(0, first_row, rows), a.weight_hr->to(dtype), state_dtype) : grad_h;
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
      grad_h0.narrow(0, continuing, rows - continuing)
          .copy_(multiply(grad_gates.narrow(0, first_row + continuing, rows - continuing), weight_hh, state_dtype));
    if (!previous_h.defined()) continue;
    if (continuing > 0)
      previous_h.narrow(0, first_row, continuing).copy_(output.narrow(0, steps.first_row(s - 1), continuing));
    if (rows > continuing)
      previous_h.narrow(0, first_row + continuing, rows - continuing)
          .copy_(h0.narrow(0, continuing, rows - continuing));
  }

  Tensor grad_weight_hh = no_gradient(a.weight_hh);
  Tensor grad_weight_hr = no_gradient(projected ? *a.weight_hr : a.input);
  if (needs[kNeedWeightHh]) {
    grad_weight_hh = multiply(grad_gates.t(), previous_h, dtype_of(a.weight_hh));
    grad_weight_hh = dtype_of(a.weight_hh) == dtype ? dropped<E>(grad_weight_hh, a) : dropped<Acc>(grad_weight_hh, a);
  }
  if (needs[kNeedWeightHr]) {
    const Tensor cell_output = gates.narrow(1, 3 * hidden, hidden).to(state_dtype).mul(cells.tanh()).to(dtype);
    grad_weight_hr = multiply(grad_h_rows.t(), cell_output, dtype_of(*a.weight_hr));
  }
  return {needs[kNeedInput] ? at::mm(grad_gates, a.weight_ih.to(dtype)) : no_gradient(a.input),
          needs[kNeedH0] ? grad_h0 : no_gradient(a.h0),
          needs[kNeedH0] ? grad_c.to(dtype_of(a.c0)) : no_gradient(a.c0),
          needs[kNeedWeightIh] ? multiply(grad_gates.t(), a.input, dtype_of(a.weight_ih)) : no_gradient(a.weight_ih),
          grad_weight_hh,
          needs[kNeedBias] ? grad_gates.sum(0, /*keepdim=*/false, state_dtype).to(dtype_of(a.weight_ih))
                           : no_gradient(a.weight_ih),
          grad_weight_hr};
}

}  // namespace

ForwardResult run_lstm_forward_cuda(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  const c10::cuda::CUDAGuard guard(a.input.device());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  return ULMFIT_DISPATCH_CUDA("lstm", dtype_of(a.input), [&] { return forward<scalar_t>(a, pool, reverse, keep); });
}

Backward run_lstm_backward_cuda(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                                int64_t bptt, const Saved& saved, Needs needs) {
  const c10::cuda::CUDAGuard guard(a.input.device());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  return ULMFIT_DISPATCH_CUDA("lstm", dtype_of(a.input),
                              [&] { return backward<scalar_t>(grads, a, pool, reverse, bptt, saved, needs); });
}

}  // namespace ulmfit_fast
