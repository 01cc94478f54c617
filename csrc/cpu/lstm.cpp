// lstm on CPU: tensors in, kernel arguments out. bfloat16 is computed in float32 with h rounded after every step.
#include "../lstm.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "dropconnect_kernel.h"
#include "lstm_kernel.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kChunkRows = 512;  // rows whose input projection is held at a time in inference

at::ScalarType compute_dtype(const at::Tensor& input) {
  const at::ScalarType dtype = input.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
                   "ulmfit_fast.ops.lstm: on CPU input must be float32, float64 or bfloat16, got ", dtype);
  return dtype == at::kBFloat16 ? at::kFloat : dtype;
}

at::Tensor prepared(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.to(dtype).contiguous();
}

std::vector<int64_t> row_offsets(const LstmInputs& a) {
  std::vector<int64_t> offsets(a.steps(), 0);
  const int64_t* size = a.batch_sizes.const_data_ptr<int64_t>();
  for (int64_t t = 1; t < a.steps(); ++t) offsets[t] = offsets[t - 1] + size[t - 1];
  return offsets;
}

LstmSizes make_sizes(const LstmInputs& a, const std::vector<int64_t>& offsets, bool reverse) {
  return {a.steps(),
          a.rows(),
          a.batch(),
          a.input_size(),
          a.hidden(),
          a.output_size(),
          a.weight_hr.has_value(),
          reverse,
          a.batch_sizes.const_data_ptr<int64_t>(),
          offsets.data()};
}

DropConnect make_dropconnect(const LstmInputs& a) {
  if (a.weight_dropout == 0.0) return {};
  return {a.weight_dropout, static_cast<uint64_t>(a.seed.item<int64_t>())};
}

// Cuts the units into slices and runs `kernel(args, member)` for all of them at once.
template <typename Args, typename Scratch, typename Kernel>
void run_team(Args& args, const at::TensorOptions& options, int64_t units_per_panel, Scratch scratch_elements,
              Kernel kernel) {
  const int64_t panels = (args.sizes.hidden + units_per_panel - 1) / units_per_panel;
#if AT_PARALLEL_OPENMP
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
#else
  const int64_t threads =
      1;  // a thread pool promises no two slices at the same time, and the barrier needs all of them
#endif
  const int64_t slices = std::max<int64_t>(1, std::min<int64_t>(threads, panels));
  args.scratch_stride = scratch_elements(args.sizes, slices);
  const at::Tensor scratch = at::empty({slices * args.scratch_stride}, options);
  args.scratch = static_cast<decltype(args.scratch)>(scratch.mutable_data_ptr());
  Barrier barrier(slices);
  at::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) { kernel(args, Member(barrier, begin, end)); });
}

// Row `row_of(r)` of `from` for every sequence r.
template <typename RowOf>
at::Tensor gather_rows(const at::Tensor& from, int64_t batch, RowOf row_of) {
  at::Tensor index = at::empty({batch}, at::kLong);
  int64_t* value = index.mutable_data_ptr<int64_t>();
  for (int64_t r = 0; r < batch; ++r) value[r] = row_of(r);
  return from.index_select(0, index);
}

// Each sequence's h after its last step of computation.
at::Tensor final_states(const at::Tensor& output, const LstmSizes& sizes) {
  std::vector<int64_t> length(sizes.batch, 1);
  for (int64_t t = 1; t < sizes.steps; ++t)
    for (int64_t r = 0; r < sizes.batch_sizes[t]; ++r) length[r] = t + 1;
  return gather_rows(output, sizes.batch,
                     [&](int64_t r) { return sizes.reverse ? r : sizes.offsets[length[r] - 1] + r; });
}

// Each row's h one step of computation earlier, [N, P].
at::Tensor previous_states(const at::Tensor& output, const at::Tensor& h0, const LstmSizes& sizes) {
  at::Tensor previous = at::empty_like(output);
  for (int64_t step = 0; step < sizes.steps; ++step) {
    const int64_t t = sizes.step(step), rows = sizes.batch_sizes[t];
    int64_t continuing = 0;
    if (step > 0) {
      const int64_t before = sizes.step(step - 1);
      continuing = std::min(rows, sizes.batch_sizes[before]);
      previous.narrow(0, sizes.offsets[t], continuing).copy_(output.narrow(0, sizes.offsets[before], continuing));
    }
    previous.narrow(0, sizes.offsets[t] + continuing, rows - continuing)
        .copy_(h0.narrow(0, continuing, rows - continuing));
  }
  return previous;
}

template <typename T>
auto drop_function(const DropConnectKernels& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return kernels.drop_float;
  else
    return kernels.drop_double;
}

// grad o M / (1-p), in place.
template <typename T>
void drop_gradient(const at::Tensor& grad, const DropConnect& dropconnect) {
  if (!dropconnect.enabled()) return;
  T* values = grad.mutable_data_ptr<T>();
  const auto drop = drop_function<T>(dropconnect_kernels());
  constexpr int64_t kElements = 4096;
  at::parallel_for(0, (grad.numel() + kElements - 1) / kElements, 4, [&](int64_t begin, int64_t end) {
    uint8_t keep[kElements];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kElements;
      drop(values + first, keep, dropconnect, first, std::min(kElements, grad.numel() - first));
    }
  });
}

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Backward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <typename T>
Forward forward(const LstmInputs& a, bool reverse, bool save) {
  const at::ScalarType dtype = a.input.scalar_type(), compute = c10::CppTypeToScalarType<T>::value;
  const at::TensorOptions options = a.input.options().dtype(compute);
  const std::vector<int64_t> offsets = row_offsets(a);

  LstmForward<T> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  args.chunk_rows = std::max(kChunkRows, sizes.batch);

  const at::Tensor input = prepared(a.input, compute), h0 = prepared(a.h0, compute);
  const at::Tensor weight_ih = prepared(a.weight_ih, compute), weight_hh = prepared(a.weight_hh, compute);
  const at::Tensor weight_hr = sizes.projected ? prepared(*a.weight_hr, compute) : at::Tensor();
  const at::Tensor bias = a.bias_ih.has_value() ? a.bias_ih->to(compute).add(a.bias_hh->to(compute))
                                                : at::zeros({4 * sizes.hidden}, options);
  const at::Tensor output = at::empty({sizes.rows, sizes.output}, options);
  const at::Tensor gates =
      at::empty({save ? sizes.rows : std::min(args.chunk_rows, sizes.rows), 4 * sizes.hidden}, options);
  const at::Tensor cells = at::empty({save ? sizes.rows : 0, sizes.hidden}, options);
  const at::Tensor c = a.c0.to(compute, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  const at::Tensor cell_output = sizes.projected ? at::empty({sizes.batch, sizes.hidden}, options) : at::Tensor();

  args.dropconnect = make_dropconnect(a);
  args.round_state = dtype == at::kBFloat16;
  args.save = save;
  args.input = input.const_data_ptr<T>();
  args.h0 = h0.const_data_ptr<T>();
  args.weight_ih = weight_ih.const_data_ptr<T>();
  args.weight_hh = weight_hh.const_data_ptr<T>();
  args.weight_hr = sizes.projected ? weight_hr.const_data_ptr<T>() : nullptr;
  args.bias = bias.const_data_ptr<T>();
  args.output = output.mutable_data_ptr<T>();
  args.gates = gates.mutable_data_ptr<T>();
  args.cells = cells.mutable_data_ptr<T>();
  args.c = c.mutable_data_ptr<T>();
  args.cell_output = sizes.projected ? cell_output.mutable_data_ptr<T>() : nullptr;

  const LstmKernels<T>& kernels = lstm_kernels<T>();
  run_team(args, options, kernels.units_per_panel, kernels.forward_scratch, kernels.forward);
  return {output.to(dtype), final_states(output, sizes).to(dtype), c.to(dtype), save ? gates : at::empty({0}, options),
          save ? cells : at::empty({0}, options)};
}

Forward lstm_cpu(const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0, const at::Tensor& c0,
                 const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& bias_ih,
                 const OptionalTensor& bias_hh, const OptionalTensor& weight_hr, const at::Tensor& seed,
                 double weight_dropout, bool reverse, bool save_for_backward) {
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     bias_ih, bias_hh,     weight_hr, seed, weight_dropout};
  check_lstm(a);
  return compute_dtype(input) == at::kDouble ? forward<double>(a, reverse, save_for_backward)
                                             : forward<float>(a, reverse, save_for_backward);
}

// Indices into `needs`, as the schema orders them.
enum Need { kInput, kH0, kWeightIh, kWeightHh, kBias, kWeightHr };

template <typename T>
Backward backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                  const LstmInputs& a, bool reverse, const at::Tensor& output, const at::Tensor& gates,
                  const at::Tensor& cells, std::array<bool, 6> needs) {
  const at::ScalarType dtype = a.input.scalar_type(), compute = c10::CppTypeToScalarType<T>::value;
  const at::TensorOptions options = a.input.options().dtype(compute);
  const std::vector<int64_t> offsets = row_offsets(a);

  LstmBackward<T> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  const at::Tensor out_grad = grad_output.has_value() ? prepared(*grad_output, compute) : at::Tensor();
  const at::Tensor h_grad = grad_h_n.has_value() ? prepared(*grad_h_n, compute) : at::Tensor();
  const at::Tensor c0 = prepared(a.c0, compute), weight_hh = prepared(a.weight_hh, compute);
  const at::Tensor weight_hr = sizes.projected ? prepared(*a.weight_hr, compute) : at::Tensor();
  const at::Tensor grad_gates = at::empty({sizes.rows, 4 * sizes.hidden}, options);
  const at::Tensor grad_h = sizes.projected ? at::empty({sizes.rows, sizes.output}, options) : at::Tensor();
  const at::Tensor grad_h0 = at::empty({sizes.batch, sizes.output}, options);
  const at::Tensor grad_c =
      grad_c_n.has_value() ? grad_c_n->to(compute, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                           : at::zeros({sizes.batch, sizes.hidden}, options);

  args.dropconnect = make_dropconnect(a);
  args.grad_output = out_grad.defined() ? out_grad.const_data_ptr<T>() : nullptr;
  args.grad_h_n = h_grad.defined() ? h_grad.const_data_ptr<T>() : nullptr;
  args.c0 = c0.const_data_ptr<T>();
  args.weight_hh = weight_hh.const_data_ptr<T>();
  args.weight_hr = sizes.projected ? weight_hr.const_data_ptr<T>() : nullptr;
  args.gates = gates.const_data_ptr<T>();
  args.cells = cells.const_data_ptr<T>();
  args.grad_gates = grad_gates.mutable_data_ptr<T>();
  args.grad_h = sizes.projected ? grad_h.mutable_data_ptr<T>() : nullptr;
  args.grad_h0 = grad_h0.mutable_data_ptr<T>();
  args.grad_c = grad_c.mutable_data_ptr<T>();
  const LstmKernels<T>& kernels = lstm_kernels<T>();
  run_team(args, options, kernels.units_per_panel, kernels.backward_scratch, kernels.backward);

  // What remains are products over all rows at once.
  const auto none = [&] { return at::empty({0}, a.input.options()); };
  at::Tensor grad_input = none(), grad_weight_ih = none(), grad_weight_hh = none(), grad_bias = none(),
             grad_weight_hr = none();
  if (needs[kInput]) grad_input = at::mm(grad_gates, prepared(a.weight_ih, compute)).to(dtype);
  if (needs[kWeightIh]) grad_weight_ih = at::mm(grad_gates.t(), prepared(a.input, compute)).to(dtype);
  if (needs[kWeightHh]) {
    const at::Tensor previous = previous_states(prepared(output, compute), prepared(a.h0, compute), sizes);
    const at::Tensor grad = at::mm(grad_gates.t(), previous);
    drop_gradient<T>(grad, args.dropconnect);
    grad_weight_hh = grad.to(dtype);
  }
  if (needs[kBias]) grad_bias = grad_gates.sum(0).to(dtype);
  if (needs[kWeightHr]) {
    const at::Tensor cell_output = gates.narrow(1, 3 * sizes.hidden, sizes.hidden).mul(cells.tanh()).to(dtype);
    grad_weight_hr = at::mm(grad_h.t(), cell_output.to(compute)).to(dtype);
  }
  return {grad_input,
          needs[kH0] ? grad_h0.to(dtype) : none(),
          needs[kH0] ? grad_c.to(dtype) : none(),
          grad_weight_ih,
          grad_weight_hh,
          grad_bias,
          grad_weight_hr};
}

Backward lstm_backward_cpu(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                           const OptionalTensor& grad_c_n, const at::Tensor& input, const at::Tensor& batch_sizes,
                           const at::Tensor& h0, const at::Tensor& c0, const at::Tensor& weight_ih,
                           const at::Tensor& weight_hh, const OptionalTensor& weight_hr, const at::Tensor& seed,
                           double weight_dropout, bool reverse, const at::Tensor& output, const at::Tensor& gates,
                           const at::Tensor& cells, std::array<bool, 6> needs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  const OptionalTensor no_bias;
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     no_bias, no_bias,     weight_hr, seed, weight_dropout};
  check_lstm(a);
  TORCH_CHECK(gates.size(0) == a.rows(),
              "ulmfit_fast.ops.lstm: backward needs the forward's gates; call it with "
              "save_for_backward=True");
  return compute_dtype(input) == at::kDouble
             ? backward<double>(grad_output, grad_h_n, grad_c_n, a, reverse, output, gates, cells, needs)
             : backward<float>(grad_output, grad_h_n, grad_c_n, a, reverse, output, gates, cells, needs);
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm", &lstm_cpu);
  m.impl("lstm_backward", &lstm_backward_cpu);
}

}  // namespace ulmfit_fast
