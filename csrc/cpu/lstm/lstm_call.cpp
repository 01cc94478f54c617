#include "lstm_call.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/workspace.h"
#include "chunks.h"
#include "lstm_kernel.h"

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

// The most threads that pay. A team costs a wake-up and a barrier a step, and each thread must save more: below about
// 300,000 multiply-adds a step two threads were slower than one (2 cores of Zen 4: 0.5 to 0.85 of its speed at 16 to 64
// units; and beside other processes, where a barrier may wait for a core, a hundredth of it). By the sizes alone.
int64_t useful_threads(const LstmSizes& sizes) {
  constexpr double kLeastWork = 150e3;  // multiply-adds a step and thread
  constexpr double kPackingRows = 3;    // packing the weights takes as long as so many rows
  constexpr double kWakeUpSteps = 2;    // waking the team as long as the barriers of so many steps
  const double weights = 4.0 * static_cast<double>(sizes.hidden) * static_cast<double>(sizes.input + sizes.output);
  const double work = weights * (static_cast<double>(sizes.rows) + kPackingRows);
  return static_cast<int64_t>(work / (static_cast<double>(sizes.steps) + kWakeUpSteps) / kLeastWork);
}

// How many threads share the hidden units, and how many the rows: the hidden units alone unless splitting the rows too
// takes more than 5 % off the busiest thread.
Grid make_grid(const LstmSizes& sizes, int64_t lanes, int64_t tile_rows) {
#if AT_PARALLEL_OPENMP
  const int64_t available = at::in_parallel_region() ? 1 : at::get_num_threads();
#else
  const int64_t available = 1;  // a thread pool promises no two slices at the same time, and the barrier needs all
#endif
  const int64_t threads = std::clamp<int64_t>(useful_threads(sizes), 1, available);
  const auto parts = [](int64_t count, int64_t size) { return (count + size - 1) / size; };
  const int64_t vectors = parts(sizes.hidden, lanes), tiles = parts(sizes.batch, tile_rows);
  Grid best;
  double least = 0;
  for (int64_t row_parts = 1; row_parts <= std::min(threads, tiles); ++row_parts) {
    const int64_t column_parts = std::min(threads / row_parts, vectors);
    const double busiest = static_cast<double>(parts(tiles, row_parts) * parts(vectors, column_parts));
    if (row_parts == 1 || busiest < 0.95 * least) {
      best = {row_parts, column_parts};
      least = busiest;
    }
  }
  return best;
}

// Runs `kernel(args, member)` for all slices of the grid at once.
template <typename Args, typename Kernel>
void run_team(const Args& args, Kernel kernel) {
  const int64_t slices = args.grid.slices();
  Barrier barrier(slices);
  at::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) { kernel(args, Member(barrier, begin, end)); });
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
  const at::Tensor weight_ih = a.weight_ih.contiguous(), weight_hh = a.weight_hh.contiguous();
  const at::Tensor weight_hr = projection_weight(a);
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
  args.grid = make_grid(sizes, kernels.lanes, kernels.rows);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  args.weight_ih = weight_elements<E>(weight_ih);
  args.weight_hh = weight_elements<E>(weight_hh);
  args.weight_hr = elements<E>(weight_hr);
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
  run_team(args, kernels.forward);
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
  run_team(args, kernels.backward);

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

Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  return ULMFIT_DISPATCH("ulmfit_fast.ops.lstm", a.input.scalar_type(), [&] {
    return backward<ElementOf<scalar_t>::type>(grads, a, pool, reverse, bptt, saved, needs);
  });
}

}  // namespace ulmfit_fast
