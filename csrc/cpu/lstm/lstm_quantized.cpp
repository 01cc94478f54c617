// lstm and lstm_pool on int8 weights, forward only: lstm_quantized_pack, lstm_quantized, lstm_pool_quantized.
#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/workspace.h"
#include "lstm_call.h"
#include "lstm_quantized_kernel.h"
#include "lstm_team.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kMostDepth = 1 << 17;  // so many products of at most 127 x 127 fit int32

Tensor lstm_quantized_pack(const Tensor& weight_ih, const Tensor& scale_ih, const Tensor& weight_hh,
                           const Tensor& scale_hh) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_quantized_pack";
  const auto check = [&](const char* name, const Tensor& weight, const char* scale_name, const Tensor& scale) {
    check_device(kFunction, name, weight, "weight_ih", weight_ih);
    check_device(kFunction, scale_name, scale, "weight_ih", weight_ih);
    ULMFIT_CHECK_TYPE(dtype_of(weight) == ScalarType::Char && dtype_of(scale) == ScalarType::Float, kFunction, ": ",
                      name, " must be int8 and its scale float32, got ", dtype_of(weight), " and ", dtype_of(scale));
    ULMFIT_CHECK_VALUE(weight.dim() == 2 && weight.size(0) % 4 == 0 && weight.numel() > 0, kFunction, ": ", name,
                       " must be [4 * hidden, size], not empty, got ", weight.sizes());
    ULMFIT_CHECK_VALUE(weight.size(1) <= kMostDepth, kFunction, ": ", name, " must have at most ", kMostDepth,
                       " columns, got ", weight.size(1));
    check_shape(kFunction, scale_name, scale, {weight.size(0)});
  };
  check("weight_ih", weight_ih, "scale_ih", scale_ih);
  check("weight_hh", weight_hh, "scale_hh", scale_hh);
  check_shape(kFunction, "weight_hh", weight_hh, {weight_ih.size(0), weight_ih.size(0) / 4});
  const Tensor ih = as_contiguous(weight_ih), hh = as_contiguous(weight_hh);
  const Tensor ih_scale = as_contiguous(scale_ih), hh_scale = as_contiguous(scale_hh);
  const LstmQuantizedKernels& kernels = lstm_quantized_kernels();
  LstmQuantizedPack args{};
  args.sizes.input = ih.size(1);
  args.sizes.hidden = args.sizes.output = hh.size(1);
  args.weight_ih = elements<int8_t>(ih);
  args.scale_ih = elements<float>(ih_scale);
  args.weight_hh = elements<int8_t>(hh);
  args.scale_hh = elements<float>(hh_scale);
  const Tensor packed = new_tensor({kernels.packed_bytes(args.sizes)}, ScalarType::Byte);
  args.packed = mutable_elements<std::byte>(packed);
  run_team(args, team_threads(), kernels.pack);
  return packed;
}

struct QuantizedInputs {
  const Tensor &input, &batch_sizes, &h0, &c0, &packed;
  const OptionalTensor &bias_ih, &bias_hh;
};

void check_inputs(const char* function, const QuantizedInputs& a) {
  const auto check = [&](const char* name, const Tensor& tensor, Shape shape) {
    check_shape(function, name, tensor, shape);
    ULMFIT_CHECK_TYPE(dtype_of(tensor) == ScalarType::Float, function, ": ", name, " must be float32, got ",
                      dtype_of(tensor));
    check_device(function, name, tensor, "input", a.input);
  };
  ULMFIT_CHECK_VALUE(a.input.dim() == 2 && a.h0.dim() == 2 && a.input.size(1) > 0 && a.h0.size(1) > 0, function,
                     ": input must be [rows, input_size] and h0 [batch, hidden_size], got ", a.input.sizes(), " and ",
                     a.h0.sizes());
  check("input", a.input, a.input.sizes());
  check_batch_sizes(function, a.batch_sizes, a.input.size(0));
  check("h0", a.h0, {elements<int64_t>(a.batch_sizes)[0], a.h0.size(1)});
  check("c0", a.c0, a.h0.sizes());
  ULMFIT_CHECK_VALUE(a.bias_ih.has_value() == a.bias_hh.has_value(), function,
                     ": give both of bias_ih and bias_hh or neither");
  if (a.bias_ih.has_value()) {
    check("bias_ih", *a.bias_ih, {4 * a.h0.size(1)});
    check("bias_hh", *a.bias_hh, {4 * a.h0.size(1)});
  }
}

struct QuantizedResult {
  Tensor output, h_n, c_n;
  std::optional<PooledState> pool;  // as it is after the call
};

QuantizedResult run(const char* function, const QuantizedInputs& a, const PoolInputs* pool, bool reverse) {
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  LstmQuantizedForward args{};
  LstmSizes& sizes = args.sizes;
  sizes.steps = a.batch_sizes.size(0);
  sizes.rows = a.input.size(0);
  sizes.batch = a.h0.size(0);
  sizes.input = a.input.size(1);
  sizes.hidden = sizes.output = a.h0.size(1);
  sizes.reverse = reverse;
  sizes.batch_sizes = elements<int64_t>(a.batch_sizes);
  sizes.offsets = offsets.data();
  const LstmQuantizedKernels& kernels = lstm_quantized_kernels();
  check_packed(function, a.packed, kernels.packed_bytes(sizes), a.input);
  const Tensor input = as_contiguous(a.input), h0 = as_contiguous(a.h0);
  const Tensor bias = summed_bias<float>(a.bias_ih, a.bias_hh, sizes.hidden);
  args.keep_output = pool == nullptr;
  const Tensor output = new_tensor({args.keep_output ? sizes.rows : 2 * sizes.batch, sizes.hidden}, ScalarType::Float);
  QuantizedResult result{output, new_tensor(h0.sizes(), ScalarType::Float), copied(a.c0, ScalarType::Float), {}};
  OptionalTensor count, pool_from;
  if (pool != nullptr) {
    result.pool = copied_pool(*pool, ScalarType::Float);
    count = as_contiguous(pool->count);
    pool_from = as_contiguous(pool->pool_from);
    args.pool = {mutable_elements<double>(result.pool->total), mutable_elements<float>(result.pool->maximum),
                 mutable_elements<int32_t>(result.pool->argmax), elements<int64_t>(count),
                 elements<int64_t>(pool_from)};
  }
  if (sizes.rows == 0) return result;
  args.grid = make_grid(sizes, kernels.lanes, kernels.rows, /*packed=*/true);
  args.input = elements<float>(input);
  args.h0 = elements<float>(h0);
  args.packed = elements<std::byte>(a.packed);
  args.bias = elements<float>(bias);
  args.output = mutable_elements<float>(output);
  args.h_n = mutable_elements<float>(result.h_n);
  args.c = mutable_elements<float>(result.c_n);
  const Workspace workspace(kernels.scratch(args));
  args.scratch = workspace.data();
  run_team(args, args.grid.slices(), kernels.forward);
  return result;
}

std::tuple<Tensor, Tensor, Tensor> lstm_quantized(const Tensor& input, const Tensor& batch_sizes, const Tensor& h0,
                                                  const Tensor& c0, const Tensor& packed, const OptionalTensor& bias_ih,
                                                  const OptionalTensor& bias_hh, bool reverse) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_quantized";
  const QuantizedInputs a{input, batch_sizes, h0, c0, packed, bias_ih, bias_hh};
  check_inputs(kFunction, a);
  const QuantizedResult result = run(kFunction, a, nullptr, reverse);
  return {result.output, result.h_n, result.c_n};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_pool_quantized(
    const Tensor& input, const Tensor& batch_sizes, const Tensor& h0, const Tensor& c0, const Tensor& packed,
    const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const Tensor& total, const Tensor& maximum,
    const Tensor& argmax, const Tensor& count, const Tensor& pool_from) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool_quantized";
  const QuantizedInputs a{input, batch_sizes, h0, c0, packed, bias_ih, bias_hh};
  check_inputs(kFunction, a);
  const OptionalTensor none, state_total(total), state_maximum(maximum);
  const LstmInputs sizes{input, batch_sizes, h0, c0, packed, packed, none, none, none, packed, 0.0};
  const PoolInputs pool{argmax, count, pool_from, state_total, state_maximum};
  check_pool(kFunction, pool, sizes, /*backward=*/false);
  const QuantizedResult result = run(kFunction, a, &pool, false);
  return {result.h_n, result.c_n, result.pool->total, result.pool->maximum, result.pool->argmax};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm_quantized_pack", TORCH_BOX(&lstm_quantized_pack));
  m.impl("lstm_quantized", TORCH_BOX(&lstm_quantized));
  m.impl("lstm_pool_quantized", TORCH_BOX(&lstm_pool_quantized));
}

}  // namespace ulmfit_fast
