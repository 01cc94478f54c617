// lstm on CPU: tensors in, kernel arguments out.
#include "../lstm.h"

#include <ATen/Dispatch.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "lstm_kernel.h"
#include "workspace.h"

namespace ulmfit_fast {
namespace {

// The kernel's type for a torch element type.
template <typename T>
struct ElementOf {
  using type = T;
};
template <>
struct ElementOf<at::BFloat16> {
  using type = Bfloat16;
};

#define ULMFIT_DISPATCH(dtype, ...)                                                                                \
  [&] {                                                                                                            \
    TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,                        \
                     "ulmfit_fast.ops.lstm: on CPU input must be float32, float64 or bfloat16, got ", dtype);      \
    return AT_DISPATCH_SWITCH(                                                                                     \
        dtype, "lstm", AT_DISPATCH_CASE_FLOATING_TYPES(__VA_ARGS__) AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__)); \
  }()

template <typename E>
const E* elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const E*>(tensor.const_data_ptr()) : nullptr;
}

template <typename E>
E* mutable_elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<E*>(tensor.mutable_data_ptr()) : nullptr;
}

// Hands torch the memory that the kernels keep (workspace.h).
class KeptMemory final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    auto* workspace = new Workspace(static_cast<int64_t>(bytes));
    return {workspace->data(), workspace, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void release(void* workspace) { delete static_cast<Workspace*>(workspace); }
};

at::Tensor new_tensor(at::IntArrayRef shape, const at::TensorOptions& options) {
  static KeptMemory kept_memory;
  constexpr int64_t kSmall = 1 << 20;  // malloc reuses these by itself
  const auto bytes = c10::multiply_integers(shape) * static_cast<int64_t>(options.dtype().itemsize());
  if (bytes < kSmall) return at::empty(shape, options);
  return at::detail::empty_generic(shape, &kept_memory, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

at::Tensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->contiguous() : at::Tensor();
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

// How many threads share the hidden units, and how many the rows: the hidden units alone unless splitting the rows too
// takes more than 5 % off the busiest thread.
Grid make_grid(int64_t hidden, int64_t batch, int64_t lanes, int64_t tile_rows) {
#if AT_PARALLEL_OPENMP
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
#else
  const int64_t threads = 1;  // a thread pool promises no two slices at the same time, and the barrier needs all
#endif
  const auto parts = [](int64_t count, int64_t size) { return (count + size - 1) / size; };
  const int64_t vectors = parts(hidden, lanes), tiles = parts(batch, tile_rows);
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

// Each sequence's h after its last step of computation.
at::Tensor final_states(const at::Tensor& output, const LstmSizes& sizes) {
  at::Tensor index = at::empty({sizes.batch}, at::kLong);
  int64_t* row = index.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < (sizes.reverse ? 1 : sizes.steps); ++t)
    for (int64_t r = 0; r < sizes.batch_sizes[t]; ++r) row[r] = sizes.offsets[t] + r;
  return output.index_select(0, index);
}

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Backward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <typename E>
Forward forward(const LstmInputs& a, bool reverse, bool save) {
  using Acc = Accumulator<E>;
  const at::TensorOptions options = a.input.options();
  const at::TensorOptions state_options = options.dtype(c10::CppTypeToScalarType<Acc>::value);
  const at::ScalarType state_dtype = c10::typeMetaToScalarType(state_options.dtype());
  const std::vector<int64_t> offsets = row_offsets(a);

  LstmForward<E> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  const at::Tensor input = a.input.contiguous(), h0 = a.h0.contiguous();
  const at::Tensor weight_ih = a.weight_ih.contiguous(), weight_hh = a.weight_hh.contiguous();
  const at::Tensor weight_hr = contiguous(a.weight_hr);
  const at::Tensor bias = a.bias_ih.has_value() ? a.bias_ih->to(state_dtype).add(a.bias_hh->to(state_dtype))
                                                : at::zeros({4 * sizes.hidden}, state_options);
  const at::Tensor output = new_tensor({sizes.rows, sizes.output}, options);
  const at::Tensor gates = save ? new_tensor({sizes.rows, 4 * sizes.hidden}, options) : at::Tensor();
  const at::Tensor cells = save ? new_tensor({sizes.rows, sizes.hidden}, state_options) : at::Tensor();
  const at::Tensor c = a.c0.to(state_dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);

  const LstmKernels<E>& kernels = lstm_kernels<E>();
  args.dropconnect = make_dropconnect(a);
  args.grid = make_grid(sizes.hidden, sizes.batch, kernels.lanes, kernels.rows);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  args.weight_ih = elements<E>(weight_ih);
  args.weight_hh = elements<E>(weight_hh);
  args.weight_hr = elements<E>(weight_hr);
  args.bias = elements<Acc>(bias);
  args.output = mutable_elements<E>(output);
  args.gates = mutable_elements<E>(gates);
  args.cells = mutable_elements<Acc>(cells);
  args.c = mutable_elements<Acc>(c);
  const Workspace workspace(kernels.forward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, kernels.forward);
  return {output, final_states(output, sizes), c.to(a.input.scalar_type()), save ? gates : at::empty({0}, options),
          save ? cells : at::empty({0}, state_options)};
}

Forward lstm_cpu(const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0, const at::Tensor& c0,
                 const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& bias_ih,
                 const OptionalTensor& bias_hh, const OptionalTensor& weight_hr, const at::Tensor& seed,
                 double weight_dropout, bool reverse, bool save_for_backward) {
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     bias_ih, bias_hh,     weight_hr, seed, weight_dropout};
  check_lstm(a);
  return ULMFIT_DISPATCH(input.scalar_type(),
                         [&] { return forward<ElementOf<scalar_t>::type>(a, reverse, save_for_backward); });
}

// Indices into `needs`, as the schema orders them.
enum Need { kInput, kH0, kWeightIh, kWeightHh, kBias, kWeightHr };

template <typename E>
Backward backward(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                  const LstmInputs& a, bool reverse, const at::Tensor& output, const at::Tensor& gates,
                  const at::Tensor& cells, std::array<bool, 6> needs) {
  using Acc = Accumulator<E>;
  const at::TensorOptions options = a.input.options();
  const at::TensorOptions state_options = options.dtype(c10::CppTypeToScalarType<Acc>::value);
  const at::ScalarType state_dtype = c10::typeMetaToScalarType(state_options.dtype());
  const std::vector<int64_t> offsets = row_offsets(a);

  LstmBackward<E> args{};
  args.sizes = make_sizes(a, offsets, reverse);
  const LstmSizes& sizes = args.sizes;
  const at::Tensor input = a.input.contiguous(), h0 = a.h0.contiguous();
  const at::Tensor c0 = a.c0.to(state_dtype).contiguous(), h_states = output.contiguous();
  const at::Tensor weight_ih = a.weight_ih.contiguous(), weight_hh = a.weight_hh.contiguous();
  const at::Tensor weight_hr = contiguous(a.weight_hr);
  const at::Tensor out_grad = contiguous(grad_output), h_grad = contiguous(grad_h_n);
  const at::Tensor grad_c = grad_c_n.has_value() ? grad_c_n->to(state_dtype, /*non_blocking=*/false, /*copy=*/true,
                                                                at::MemoryFormat::Contiguous)
                                                 : at::zeros({sizes.batch, sizes.hidden}, state_options);
  const auto when = [&](bool needed, at::IntArrayRef shape) {
    return needed ? new_tensor(shape, options) : at::Tensor();
  };
  const at::Tensor grad_h = when(sizes.projected, {sizes.rows, sizes.output});
  const at::Tensor grad_h0 = new_tensor({sizes.batch, sizes.output}, options);
  const at::Tensor grad_input = when(needs[kInput], {sizes.rows, sizes.input});
  const at::Tensor grad_weight_ih = when(needs[kWeightIh], weight_ih.sizes());
  const at::Tensor grad_weight_hh = when(needs[kWeightHh], weight_hh.sizes());
  const at::Tensor grad_bias = when(needs[kBias], {4 * sizes.hidden});

  const LstmKernels<E>& kernels = lstm_kernels<E>();
  args.dropconnect = make_dropconnect(a);
  args.grid = make_grid(sizes.hidden, sizes.batch, kernels.lanes, kernels.rows);
  args.input = elements<E>(input);
  args.h0 = elements<E>(h0);
  args.c0 = elements<Acc>(c0);
  args.weight_ih = elements<E>(weight_ih);
  args.weight_hh = elements<E>(weight_hh);
  args.weight_hr = elements<E>(weight_hr);
  args.output = elements<E>(h_states);
  const at::Tensor saved_gates = gates.contiguous(), saved_cells = cells.to(state_dtype).contiguous();
  args.gates = elements<E>(saved_gates);
  args.cells = elements<Acc>(saved_cells);
  args.grad_output = elements<E>(out_grad);
  args.grad_h_n = elements<E>(h_grad);
  args.grad_c = mutable_elements<Acc>(grad_c);
  args.grad_h = mutable_elements<E>(grad_h);
  args.grad_h0 = mutable_elements<E>(grad_h0);
  args.grad_input = mutable_elements<E>(grad_input);
  args.grad_weight_ih = mutable_elements<E>(grad_weight_ih);
  args.grad_weight_hh = mutable_elements<E>(grad_weight_hh);
  args.grad_bias = mutable_elements<E>(grad_bias);
  const Workspace workspace(kernels.backward_scratch(args));
  args.scratch = workspace.data();
  run_team(args, kernels.backward);

  at::Tensor grad_weight_hr;
  if (needs[kWeightHr]) {
    const at::Tensor cell_output =
        gates.narrow(1, 3 * sizes.hidden, sizes.hidden).to(state_dtype).mul(cells.tanh()).to(a.input.scalar_type());
    grad_weight_hr = at::mm(grad_h.t(), cell_output);
  }
  const auto or_empty = [&](bool needed, const at::Tensor& grad) { return needed ? grad : at::empty({0}, options); };
  return {or_empty(needs[kInput], grad_input),
          or_empty(needs[kH0], grad_h0),
          or_empty(needs[kH0], grad_c.to(a.input.scalar_type())),
          or_empty(needs[kWeightIh], grad_weight_ih),
          or_empty(needs[kWeightHh], grad_weight_hh),
          or_empty(needs[kBias], grad_bias),
          or_empty(needs[kWeightHr], grad_weight_hr)};
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
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_backward";
  TORCH_CHECK_VALUE(gates.size(0) == a.rows(), kFunction,
                    ": gates are empty; call the forward with save_for_backward=True");
  check_shape(kFunction, "gates", gates, {a.rows(), 4 * a.hidden()});
  check_shape(kFunction, "cells", cells, {a.rows(), a.hidden()});
  check_shape(kFunction, "output", output, {a.rows(), a.output_size()});
  check_like(kFunction, "gates", gates, "input", a.input);
  check_like(kFunction, "output", output, "input", a.input);
  const auto check_grad = [&](const char* name, const OptionalTensor& grad, at::IntArrayRef shape) {
    if (!grad.has_value()) return;
    check_shape(kFunction, name, *grad, shape);
    check_like(kFunction, name, *grad, "input", a.input);
  };
  check_grad("grad_output", grad_output, {a.rows(), a.output_size()});
  check_grad("grad_h_n", grad_h_n, {a.batch(), a.output_size()});
  check_grad("grad_c_n", grad_c_n, {a.batch(), a.hidden()});
  return ULMFIT_DISPATCH(input.scalar_type(), [&] {
    return backward<ElementOf<scalar_t>::type>(grad_output, grad_h_n, grad_c_n, a, reverse, output, gates, cells,
                                               needs);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm", &lstm_cpu);
  m.impl("lstm_backward", &lstm_backward_cpu);
}

}  // namespace ulmfit_fast
