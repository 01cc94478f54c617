#include "lstm_call.h"

#include <ATen/Functions.h>

#include <algorithm>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/workspace.h"
#include "chunks.h"
#include "lstm_kernel.h"
#include "lstm_quantized_kernel.h"
#include "lstm_team.h"

namespace ulmfit_fast {
namespace {

at::Tensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->contiguous() : at::Tensor();
}

at::Tensor copy_as(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.to(dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
}

// Small: converted where it is not of the input's type.
at::Tensor projection_weight(const LstmInputs& a) {
  return a.weight_hr.has_value() ? a.weight_hr->to(a.input.scalar_type()).contiguous() : at::Tensor();
}

LstmSizes make_sizes(const LstmInputs& a, const std::vector<int64_t>& offsets, bool reverse) {
  LstmSizes sizes{};
  sizes.steps = a.steps();
  sizes.rows = a.rows();
  sizes.batch = a.batch();
  sizes.input = a.input_size();
  sizes.hidden = a.hidden();
  sizes.output = a.output_size();
  sizes.projected = a.weight_hr.has_value();
  sizes.reverse = reverse;
  sizes.batch_sizes = a.batch_sizes.const_data_ptr<int64_t>();
  sizes.offsets = offsets.data();
  return sizes;
}

DropConnect make_dropconnect(const LstmInputs& a) {
  if (a.weight_dropout == 0.0) return {};
  return {a.weight_dropout, static_cast<uint64_t>(a.seed.item<int64_t>())};
}

template <typename E>
at::Tensor pack(const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& weight_hr,
                at::ScalarType dtype) {
  const at::Tensor ih = weight_ih.contiguous(), hh = weight_hh.contiguous();
  const at::Tensor hr = weight_hr.has_value() ? weight_hr->to(dtype).contiguous() : at::Tensor();
  const LstmKernels<E>& kernels = lstm_kernels<E>();
  LstmPack<E> args{};
  args.sizes.input = ih.size(1);
  args.sizes.hidden = ih.size(0) / 4;
  args.sizes.output = hh.size(1);
  args.sizes.projected = weight_hr.has_value();
  args.slices = at::in_parallel_region() ? 1 : at::get_num_threads();
  args.weight_ih = weight_elements<E>(ih);
  args.weight_hh = weight_elements<E>(hh);
  args.weight_hr = elements<E>(hr);
  const at::Tensor packed = new_tensor({kernels.packed_bytes(args.sizes)}, ih.options().dtype(at::kByte));
  args.packed = mutable_elements<std::byte>(packed);
  const Workspace workspace(kernels.pack_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.slices, kernels.pack);
  return packed;
}

template <typename E>
ForwardResult forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  using Acc = Accumulator<E>;
  const at::TensorOptions options = a.input.options();
  const at::ScalarType state_dtype = state_dtype_of(a.input);
  const at::TensorOptions state_options = options.dtype(state_dtype);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);

  LstmForward<E> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  const at::Tensor input = a.input.contiguous(), h0 = a.h0.contiguous();
  at::Tensor weight_ih, weight_hh, weight_hr;
  if (a.packed == nullptr) {
    weight_ih = a.weight_ih.contiguous();
    weight_hh = a.weight_hh.contiguous();
    weight_hr = projection_weight(a);
  }
  const at::Tensor bias = a.bias_ih.has_value() ? a.bias_ih->to(state_dtype).add(a.bias_hh->to(state_dtype))
                                                : at::zeros({4 * sizes.hidden}, state_options);
  args.keep_output = pool == nullptr || keep != Keep::kNothing;
  const int64_t output_rows = args.keep_output ? sizes.rows : 2 * sizes.batch;
  const at::Tensor output = new_tensor({output_rows, sizes.output}, options);
  const at::Tensor h_n = at::empty({sizes.batch, sizes.output}, options);
  const auto when = [&](bool kept, int64_t width, const at::TensorOptions& like) {
    return kept ? new_tensor({sizes.rows, width}, like) : at::empty({0}, like);
  };
  const at::Tensor gates = when(keep == Keep::kBackward, 4 * sizes.hidden, options);
  const at::Tensor cells = when(keep != Keep::kNothing, sizes.hidden, state_options);
  const at::Tensor c = copy_as(a.c0, state_dtype);

  const LstmKernels<E>& kernels = lstm_kernels<E>();
  args.dropconnect = make_dropconnect(a);
  args.grid = make_grid(sizes, kernels.lanes, kernels.rows, a.packed != nullptr);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  if (a.packed != nullptr) {
    args.packed = elements<std::byte>(*a.packed);
  } else {
    args.weight_ih = weight_elements<E>(weight_ih);
    args.weight_hh = weight_elements<E>(weight_hh);
    args.weight_hr = elements<E>(weight_hr);
  }
  args.bias = elements<Acc>(bias);
  args.output = mutable_elements<E>(output);
  args.h_n = mutable_elements<E>(h_n);
  args.gates = keep == Keep::kBackward ? mutable_elements<E>(gates) : nullptr;
  args.cells = keep != Keep::kNothing ? mutable_elements<Acc>(cells) : nullptr;
  args.c = mutable_elements<Acc>(c);
  ForwardResult result{args.keep_output ? output : at::empty({0}, options), h_n, {}, gates, cells, {}, {}, {}};
  at::Tensor count, pool_from;
  if (pool != nullptr) {
    result.total = copy_as(*pool->total, at::kDouble);
    result.maximum = copy_as(*pool->maximum, state_dtype);
    result.argmax = copy_as(pool->argmax, at::kInt);
    count = pool->count.contiguous();
    pool_from = pool->pool_from.contiguous();
    args.pool = {mutable_elements<double>(result.total), mutable_elements<Acc>(result.maximum),
                 mutable_elements<int32_t>(result.argmax), elements<int64_t>(count), elements<int64_t>(pool_from)};
  }
  const Workspace workspace(kernels.forward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.grid.slices(), kernels.forward);
  result.c_n = c.to(a.c0.scalar_type());
  return result;
}

// The states that the chunks start from: the given ones, or those that the step before the chunk left.
at::Tensor start_states(const Chunks& chunks, const std::vector<int64_t>& offsets, const at::Tensor& initial,
                        const at::Tensor& states) {
  const at::Tensor start = at::empty({chunks.count(), initial.size(1)}, initial.options());
  const auto bytes = static_cast<int64_t>(initial.size(1) * initial.element_size());
  const auto* from_initial = static_cast<const std::byte*>(initial.const_data_ptr());
  const auto* from_states = static_cast<const std::byte*>(states.const_data_ptr());
  auto* to = static_cast<std::byte*>(start.mutable_data_ptr());
  for (int64_t q = 0; q < chunks.count(); ++q) {
    const int64_t r = chunks.sequence[q], step = chunks.first_step[q];
    const std::byte* from = step == 0 ? from_initial + r * bytes : from_states + (offsets[step - 1] + r) * bytes;
    std::memcpy(to + q * bytes, from, bytes);
  }
  return start;
}

at::Tensor index_of(const std::vector<int64_t>& values) {
  return at::tensor(values, at::TensorOptions(at::kCPU).dtype(at::kLong));
}

// Gradients of the sequences' final states, as their last chunks have them.
at::Tensor at_last_chunks(const Chunks& chunks, const OptionalTensor& grad, int64_t width,
                          const at::TensorOptions& options) {
  const at::Tensor all = at::zeros({chunks.count(), width}, options);
  if (grad.has_value()) all.index_copy_(0, index_of(chunks.sequence_end), grad->to(options.dtype()));
  return all;
}

template <typename E>
Backward backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse, int64_t bptt,
                  const Saved& saved, Needs needs) {
  using Acc = Accumulator<E>;
  const at::TensorOptions options = a.input.options();
  const at::ScalarType state_dtype = state_dtype_of(a.input);
  const at::TensorOptions state_options = options.dtype(state_dtype);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  const Chunks chunks = make_chunks(a.batch_sizes.const_data_ptr<int64_t>(), offsets.data(), a.steps(),
                                    bptt > 0 ? std::min(bptt, a.steps()) : a.steps());

  LstmBackward<E> args{};
  args.sizes = make_sizes(a, chunks.offsets, reverse);
  args.sizes.steps = static_cast<int64_t>(chunks.batch_sizes.size());
  args.sizes.batch = chunks.count();
  args.sizes.batch_sizes = chunks.batch_sizes.data();
  args.storage = chunks.storage.data();
  const LstmSizes& sizes = args.sizes;
  const at::Tensor input = a.input.contiguous(), output = saved.output.contiguous();
  const at::Tensor gates = saved.gates.contiguous(), cells = saved.cells.to(state_dtype).contiguous();
  const at::Tensor h0 = start_states(chunks, offsets, a.h0.contiguous(), output);
  const at::Tensor c0 = start_states(chunks, offsets, a.c0.to(state_dtype).contiguous(), cells);
  const at::Tensor weight_ih = a.weight_ih.contiguous(), weight_hh = a.weight_hh.contiguous();
  const at::Tensor weight_hr = projection_weight(a), grad_output = contiguous(grads.output);
  const at::Tensor grad_h_n = at_last_chunks(chunks, grads.h_n, sizes.output, options);
  const at::Tensor grad_c = at_last_chunks(chunks, grads.c_n, sizes.hidden, state_options);
  const auto when = [&](bool needed, at::IntArrayRef shape, const at::TensorOptions& like) {
    return needed ? new_tensor(shape, like) : at::Tensor();
  };
  const at::Tensor grad_h = when(sizes.projected, {sizes.rows, sizes.output}, options);
  const at::Tensor grad_h0 = new_tensor({sizes.batch, sizes.output}, options);
  const at::Tensor grad_input = when(needs[kNeedInput], {sizes.rows, sizes.input}, options);
  const at::Tensor grad_weight_ih = when(needs[kNeedWeightIh], weight_ih.sizes(), weight_ih.options());
  const at::Tensor grad_weight_hh = when(needs[kNeedWeightHh], weight_hh.sizes(), weight_hh.options());
  const at::Tensor grad_bias = when(needs[kNeedBias], {4 * sizes.hidden}, weight_ih.options());

  const LstmKernels<E>& kernels = lstm_kernels<E>();
  args.dropconnect = make_dropconnect(a);
  args.grid = make_grid(sizes, kernels.lanes, kernels.rows);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  args.c0 = elements<Acc>(c0);
  args.weight_ih = weight_elements<E>(weight_ih);
  args.weight_hh = weight_elements<E>(weight_hh);
  args.weight_hr = elements<E>(weight_hr);
  args.output = elements<E>(output);
  args.gates = elements<E>(gates);
  args.cells = elements<Acc>(cells);
  args.grad_output = elements<E>(grad_output);
  args.grad_h_n = elements<E>(grad_h_n);
  args.grad_c = mutable_elements<Acc>(grad_c);
  args.grad_h = mutable_elements<E>(grad_h);
  args.grad_h0 = mutable_elements<E>(grad_h0);
  args.grad_input = mutable_elements<E>(grad_input);
  args.grad_weight_ih = gradient_elements<E>(grad_weight_ih);
  args.grad_weight_hh = gradient_elements<E>(grad_weight_hh);
  args.grad_bias = gradient_elements<E>(grad_bias);
  at::Tensor pool_total, pool_maximum, argmax, first_step, pool_from;
  if (pool != nullptr) {
    const at::Tensor sequence = index_of(chunks.sequence);
    if (pool->total.has_value()) pool_total = pool->total->to(state_dtype).contiguous();
    pool_maximum = contiguous(pool->maximum);
    argmax = pool->argmax.contiguous();
    first_step = pool->count.index_select(0, sequence).add_(index_of(chunks.first_step));
    pool_from = pool->pool_from.index_select(0, sequence);
    args.pool = {elements<Acc>(pool_total), elements<Acc>(pool_maximum),   elements<int32_t>(argmax),
                 chunks.sequence.data(),    elements<int64_t>(first_step), elements<int64_t>(pool_from)};
  }
  const Workspace workspace(kernels.backward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.grid.slices(), kernels.backward);

  at::Tensor grad_weight_hr;
  if (needs[kNeedWeightHr]) {
    const at::Tensor cell_output =
        gates.narrow(1, 3 * sizes.hidden, sizes.hidden).to(state_dtype).mul(cells.tanh()).to(a.input.scalar_type());
    grad_weight_hr = at::mm(grad_h.t(), cell_output).to(a.weight_hr->scalar_type());
  }
  const at::Tensor begin = index_of(chunks.sequence_begin);
  return {needs[kNeedInput] ? grad_input : no_gradient(a.input),
          needs[kNeedH0] ? grad_h0.index_select(0, begin) : no_gradient(a.h0),
          needs[kNeedH0] ? grad_c.index_select(0, begin).to(a.c0.scalar_type()) : no_gradient(a.c0),
          needs[kNeedWeightIh] ? grad_weight_ih : no_gradient(a.weight_ih),
          needs[kNeedWeightHh] ? grad_weight_hh : no_gradient(a.weight_hh),
          needs[kNeedBias] ? grad_bias : no_gradient(a.weight_ih),
          needs[kNeedWeightHr] ? grad_weight_hr : no_gradient(a.weight_hr.has_value() ? *a.weight_hr : a.input)};
}

}  // namespace

ForwardResult run_lstm_forward_cpu(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  return ULMFIT_DISPATCH("ulmfit_fast.ops.lstm", a.input.scalar_type(),
                         [&] { return forward<ElementOf<scalar_t>::type>(a, pool, reverse, keep); });
}

int64_t lstm_packed_bytes(at::ScalarType dtype, int64_t input, int64_t hidden, int64_t output, bool projected) {
  LstmSizes sizes{};
  sizes.input = input;
  sizes.hidden = hidden;
  sizes.output = output;
  sizes.projected = projected;
  if (dtype == at::kChar) return lstm_quantized_kernels().packed_bytes(sizes);
  return ULMFIT_DISPATCH("ulmfit_fast.ops.lstm_pack", dtype,
                         [&] { return lstm_kernels<ElementOf<scalar_t>::type>().packed_bytes(sizes); });
}

at::Tensor run_lstm_pack_cpu(const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& weight_hr,
                             at::ScalarType dtype) {
  return ULMFIT_DISPATCH("ulmfit_fast.ops.lstm_pack", dtype,
                         [&] { return pack<ElementOf<scalar_t>::type>(weight_ih, weight_hh, weight_hr, dtype); });
}

Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  return ULMFIT_DISPATCH("ulmfit_fast.ops.lstm", a.input.scalar_type(), [&] {
    return backward<ElementOf<scalar_t>::type>(grads, a, pool, reverse, bptt, saved, needs);
  });
}

}  // namespace ulmfit_fast
