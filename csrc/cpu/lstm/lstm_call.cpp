#include "lstm_call.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>

#include "../../common/wrapping.h"
#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "chunks.h"
#include "lstm_kernel.h"
#include "lstm_quantized_kernel.h"
#include "lstm_team.h"

namespace ulmfit_fast {
namespace {

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
  sizes.batch_sizes = elements<int64_t>(a.batch_sizes);
  sizes.offsets = offsets.data();
  return sizes;
}

DropConnect make_dropconnect(const LstmInputs& a) {
  if (a.weight_dropout == 0.0) return {};
  return {a.weight_dropout, static_cast<uint64_t>(*elements<int64_t>(a.seed))};
}

template <typename E>
Tensor pack(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& weight_hr, ScalarType dtype) {
  const Tensor ih = as_contiguous(weight_ih), hh = as_contiguous(weight_hh);
  const OptionalTensor hr = converted(weight_hr, dtype);
  const LstmKernels<E>& kernels = lstm_kernels<E>();
  LstmPack<E> args{};
  args.sizes.input = ih.size(1);
  args.sizes.hidden = ih.size(0) / 4;
  args.sizes.output = hh.size(1);
  args.sizes.projected = weight_hr.has_value();
  args.slices = team_threads();
  args.weight_ih = weight_elements<E>(ih);
  args.weight_hh = weight_elements<E>(hh);
  args.weight_hr = elements<E>(hr);
  const Tensor packed = new_tensor({kernels.packed_bytes(args.sizes)}, ScalarType::Byte);
  args.packed = mutable_elements<std::byte>(packed);
  const Workspace workspace(kernels.pack_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.slices, kernels.pack);
  return packed;
}

template <typename E>
ForwardResult forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);

  LstmForward<E> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  const Tensor input = as_contiguous(a.input), h0 = as_contiguous(a.h0);
  OptionalTensor weight_ih, weight_hh, weight_hr;
  if (a.packed == nullptr) {
    weight_ih = as_contiguous(a.weight_ih);
    weight_hh = as_contiguous(a.weight_hh);
    weight_hr = converted(a.weight_hr, dtype);  // small
  }
  const Tensor bias = summed_bias<Acc>(a.bias_ih, a.bias_hh, sizes.hidden);
  args.keep_output = pool == nullptr || keep != Keep::kNothing;
  const int64_t output_rows = args.keep_output ? sizes.rows : 2 * sizes.batch;
  const Tensor output = new_tensor({output_rows, sizes.output}, dtype);
  const Tensor h_n = new_tensor({sizes.batch, sizes.output}, dtype);
  const auto when = [&](bool kept, int64_t width, ScalarType of) {
    return kept ? new_tensor({sizes.rows, width}, of) : new_tensor({0}, of);
  };
  const Tensor gates = when(keep == Keep::kBackward, 4 * sizes.hidden, dtype);
  const Tensor cells = when(keep != Keep::kNothing, sizes.hidden, state_dtype);
  const Tensor c = copied(a.c0, state_dtype);

  const LstmKernels<E>& kernels = lstm_kernels<E>();
  args.dropconnect = make_dropconnect(a);
  args.grid = make_grid(sizes, kernels.lanes, kernels.rows, a.packed != nullptr);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  if (a.packed != nullptr) {
    args.packed = elements<std::byte>(*a.packed);
  } else {
    args.weight_ih = weight_elements<E>(*weight_ih);
    args.weight_hh = weight_elements<E>(*weight_hh);
    args.weight_hr = elements<E>(weight_hr);
  }
  args.bias = elements<Acc>(bias);
  args.output = mutable_elements<E>(output);
  args.h_n = mutable_elements<E>(h_n);
  args.gates = keep == Keep::kBackward ? mutable_elements<E>(gates) : nullptr;
  args.cells = keep != Keep::kNothing ? mutable_elements<Acc>(cells) : nullptr;
  args.c = mutable_elements<Acc>(c);
  std::optional<PooledState> pooled;
  OptionalTensor count, pool_from;
  if (pool != nullptr) {
    pooled = copied_pool(*pool, state_dtype);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
    args.pool = {mutable_elements<double>(pooled->total), mutable_elements<Acc>(pooled->maximum),
                 mutable_elements<int32_t>(pooled->argmax), elements<int64_t>(count), elements<int64_t>(pool_from)};
  }
  const Workspace workspace(kernels.forward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.grid.slices(), kernels.forward);
  return {args.keep_output ? output : new_tensor({0}, dtype), h_n, converted(c, dtype_of(a.c0)), gates, cells, pooled};
}

// The states that the chunks start from: the given ones, or those that the step before the chunk left.
Tensor start_states(const Chunks& chunks, const std::vector<int64_t>& offsets, const Tensor& initial,
                    const Tensor& states) {
  const Tensor start = new_tensor({chunks.count(), initial.size(1)}, dtype_of(initial));
  const auto bytes = static_cast<int64_t>(initial.size(1) * initial.element_size());
  const auto *from_initial = elements<std::byte>(initial), *from_states = elements<std::byte>(states);
  auto* to = mutable_elements<std::byte>(start);
  for (int64_t q = 0; q < chunks.count(); ++q) {
    const int64_t r = chunks.sequence[q], step = chunks.first_step[q];
    const std::byte* from = step == 0 ? from_initial + r * bytes : from_states + (offsets[step - 1] + r) * bytes;
    std::memcpy(to + q * bytes, from, bytes);
  }
  return start;
}

// Gradients of the sequences' final states, as their last chunks have them.
Tensor at_last_chunks(const Chunks& chunks, const OptionalTensor& grad, int64_t width, ScalarType dtype) {
  const Tensor all = new_tensor({chunks.count(), width}, dtype);
  clear(all);
  if (!grad.has_value()) return all;
  const Tensor rows = converted(*grad, dtype);
  const auto bytes = static_cast<int64_t>(width * rows.element_size());
  const auto* from = elements<std::byte>(rows);
  auto* to = mutable_elements<std::byte>(all);
  for (size_t r = 0; r < chunks.sequence_end.size(); ++r)
    std::memcpy(to + chunks.sequence_end[r] * bytes, from + r * bytes, bytes);
  return all;
}

// What the sequences' first chunks have.
Tensor at_first_chunks(const Chunks& chunks, const Tensor& all) {
  const auto batch = static_cast<int64_t>(chunks.sequence_begin.size());
  const Tensor rows = new_tensor({batch, all.size(1)}, dtype_of(all));
  const auto bytes = static_cast<int64_t>(all.size(1) * all.element_size());
  const auto* from = elements<std::byte>(all);
  auto* to = mutable_elements<std::byte>(rows);
  for (int64_t r = 0; r < batch; ++r) std::memcpy(to + r * bytes, from + chunks.sequence_begin[r] * bytes, bytes);
  return rows;
}

// The value of each chunk's sequence.
std::vector<int64_t> of_chunks(const Chunks& chunks, const Tensor& of_sequences) {
  const Tensor values = as_contiguous(of_sequences);
  const auto* value = elements<int64_t>(values);
  std::vector<int64_t> result;
  result.reserve(chunks.sequence.size());
  for (const int64_t r : chunks.sequence) result.push_back(value[r]);
  return result;
}

// Of the projection: the sum over rows of grad h times o * tanh(c).
Tensor projection_gradient(const LstmSizes& sizes, Tensor gates, const Tensor& cells, const Tensor& grad_h) {
  const ScalarType dtype = dtype_of(grad_h);
  const Tensor o = converted(torch::stable::narrow(gates, 1, 3 * sizes.hidden, sizes.hidden), dtype_of(cells));
  const Tensor cell_output = converted(call("aten::mul", "Tensor", o, call("aten::tanh", "", cells)), dtype);
  const Tensor result = empty({sizes.output, sizes.hidden}, dtype, grad_h);
  // Not by the dispatcher, whose autocast would choose other dtypes.
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_mm_out(result.get(), torch::stable::transpose(grad_h, 0, 1).get(), cell_output.get()));
  return result;
}

template <typename E>
Backward backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse, int64_t bptt,
                  const Saved& saved, Needs needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), state_dtype = state_dtype_of(a.input);
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  const Chunks chunks = make_chunks(elements<int64_t>(a.batch_sizes), offsets.data(), a.steps(),
                                    bptt > 0 ? std::min(bptt, a.steps()) : a.steps());

  LstmBackward<E> args{};
  args.sizes = make_sizes(a, chunks.offsets, reverse);
  args.sizes.steps = static_cast<int64_t>(chunks.batch_sizes.size());
  args.sizes.batch = chunks.count();
  args.sizes.batch_sizes = chunks.batch_sizes.data();
  args.storage = chunks.storage.data();
  const LstmSizes& sizes = args.sizes;
  const Tensor input = as_contiguous(a.input), output = as_contiguous(saved.output);
  const Tensor gates = as_contiguous(saved.gates), cells = as_contiguous(saved.cells);
  const Tensor h0 = start_states(chunks, offsets, as_contiguous(a.h0), output);
  const Tensor c0 = start_states(chunks, offsets, converted(a.c0, state_dtype), cells);
  const Tensor weight_ih = as_contiguous(a.weight_ih), weight_hh = as_contiguous(a.weight_hh);
  const OptionalTensor weight_hr = converted(a.weight_hr, dtype), grad_output = as_contiguous(grads.output);
  const Tensor grad_h_n = at_last_chunks(chunks, grads.h_n, sizes.output, dtype);
  const Tensor grad_c = at_last_chunks(chunks, grads.c_n, sizes.hidden, state_dtype);
  const auto when = [](bool needed, Shape shape, ScalarType of) {
    return needed ? OptionalTensor(new_tensor(shape, of)) : std::nullopt;
  };
  const ScalarType of_ih = dtype_of(weight_ih), of_hh = dtype_of(weight_hh);
  const OptionalTensor grad_h = when(sizes.projected, {sizes.rows, sizes.output}, dtype);
  const Tensor grad_h0 = new_tensor({sizes.batch, sizes.output}, dtype);
  const OptionalTensor grad_input = when(needs[kNeedInput], {sizes.rows, sizes.input}, dtype);
  const OptionalTensor grad_weight_ih = when(needs[kNeedWeightIh], weight_ih.sizes(), of_ih);
  const OptionalTensor grad_weight_hh = when(needs[kNeedWeightHh], weight_hh.sizes(), of_hh);
  const OptionalTensor grad_bias = when(needs[kNeedBias], {4 * sizes.hidden}, of_ih);

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
  OptionalTensor pool_total, pool_maximum, argmax;
  std::vector<int64_t> first_step, pool_from;
  if (pool != nullptr) {
    pool_total = converted(pool->total, state_dtype);
    pool_maximum = as_contiguous(pool->maximum);
    argmax = as_contiguous(pool->argmax);
    first_step = of_chunks(chunks, pool->count);
    std::transform(first_step.begin(), first_step.end(), chunks.first_step.begin(), first_step.begin(), wrapping_sum);
    pool_from = of_chunks(chunks, pool->pool_from);
    args.pool = {elements<Acc>(pool_total), elements<Acc>(pool_maximum), elements<int32_t>(argmax),
                 chunks.sequence.data(),    first_step.data(),           pool_from.data()};
  }
  const Workspace workspace(kernels.backward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.grid.slices(), kernels.backward);

  const auto or_empty = [](const OptionalTensor& gradient, const Tensor& of) {
    return gradient.has_value() ? *gradient : no_gradient(of);
  };
  return {or_empty(grad_input, a.input),
          needs[kNeedH0] ? at_first_chunks(chunks, grad_h0) : no_gradient(a.h0),
          needs[kNeedH0] ? converted(at_first_chunks(chunks, grad_c), dtype_of(a.c0)) : no_gradient(a.c0),
          or_empty(grad_weight_ih, a.weight_ih),
          or_empty(grad_weight_hh, a.weight_hh),
          or_empty(grad_bias, a.weight_ih),
          needs[kNeedWeightHr] ? converted(projection_gradient(sizes, gates, cells, *grad_h), dtype_of(*a.weight_hr))
                               : no_gradient(a.weight_hr.has_value() ? *a.weight_hr : a.input)};
}

}  // namespace

ForwardResult run_lstm_forward_cpu(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep) {
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input),
                   [&]<typename T>() { return forward<typename ElementOf<T>::type>(a, pool, reverse, keep); });
}

int64_t lstm_packed_bytes(ScalarType dtype, int64_t input, int64_t hidden, int64_t output, bool projected) {
  LstmSizes sizes{};
  sizes.input = input;
  sizes.hidden = hidden;
  sizes.output = output;
  sizes.projected = projected;
  if (dtype == ScalarType::Char) return lstm_quantized_kernels().packed_bytes(sizes);
  return for_dtype("ulmfit_fast.ops.lstm_pack", dtype,
                   [&]<typename T>() { return lstm_kernels<typename ElementOf<T>::type>().packed_bytes(sizes); });
}

Tensor run_lstm_pack_cpu(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& weight_hr,
                         ScalarType dtype) {
  return for_dtype("ulmfit_fast.ops.lstm_pack", dtype, [&]<typename T>() {
    return pack<typename ElementOf<T>::type>(weight_ih, weight_hh, weight_hr, dtype);
  });
}

Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs) {
  return for_dtype("ulmfit_fast.ops.lstm", dtype_of(a.input), [&]<typename T>() {
    return backward<typename ElementOf<T>::type>(grads, a, pool, reverse, bptt, saved, needs);
  });
}

}  // namespace ulmfit_fast
