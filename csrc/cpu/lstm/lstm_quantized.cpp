// lstm and lstm_pool on int8 weights, forward only: lstm_quantized_pack, lstm_quantized, lstm_pool_quantized.
#include <torch/library.h>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/workspace.h"
#include "lstm_call.h"
#include "lstm_quantized_kernel.h"
#include "lstm_team.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kMostDepth = 1 << 17;  // so many products of at most 127 x 127 fit int32

at::Tensor lstm_quantized_pack(const at::Tensor& weight_ih, const at::Tensor& scale_ih, const at::Tensor& weight_hh,
                               const at::Tensor& scale_hh) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_quantized_pack";
  const auto check = [&](const char* name, const at::Tensor& weight, const char* scale_name, const at::Tensor& scale) {
    check_device(kFunction, name, weight, "weight_ih", weight_ih);
    check_device(kFunction, scale_name, scale, "weight_ih", weight_ih);
    TORCH_CHECK_TYPE(weight.scalar_type() == at::kChar && scale.scalar_type() == at::kFloat, kFunction, ": ", name,
                     " must be int8 and its scale float32, got ", weight.scalar_type(), " and ", scale.scalar_type());
    TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(0) % 4 == 0 && weight.numel() > 0, kFunction, ": ", name,
                      " must be [4 * hidden, size], not empty, got ", weight.sizes());
    TORCH_CHECK_VALUE(weight.size(1) <= kMostDepth, kFunction, ": ", name, " must have at most ", kMostDepth,
                      " columns, got ", weight.size(1));
    check_shape(kFunction, scale_name, scale, {weight.size(0)});
  };
  check("weight_ih", weight_ih, "scale_ih", scale_ih);
  check("weight_hh", weight_hh, "scale_hh", scale_hh);
  check_shape(kFunction, "weight_hh", weight_hh, {weight_ih.size(0), weight_ih.size(0) / 4});
  const at::Tensor ih = weight_ih.contiguous(), hh = weight_hh.contiguous();
  const at::Tensor ih_scale = scale_ih.contiguous(), hh_scale = scale_hh.contiguous();
  const LstmQuantizedKernels& kernels = lstm_quantized_kernels();
  LstmQuantizedPack args{};
  args.sizes.input = ih.size(1);
  args.sizes.hidden = args.sizes.output = hh.size(1);
  args.weight_ih = elements<int8_t>(ih);
  args.scale_ih = elements<float>(ih_scale);
  args.weight_hh = elements<int8_t>(hh);
  args.scale_hh = elements<float>(hh_scale);
  const at::Tensor packed = new_tensor({kernels.packed_bytes(args.sizes)}, ih.options().dtype(at::kByte));
  args.packed = mutable_elements<std::byte>(packed);
  run_team(args, at::in_parallel_region() ? 1 : at::get_num_threads(), kernels.pack);
  return packed;
}

struct QuantizedInputs {
  const at::Tensor &input, &batch_sizes, &h0, &c0, &packed;
  const OptionalTensor &bias_ih, &bias_hh;
};

void check_inputs(const char* function, const QuantizedInputs& a) {
  const auto check = [&](const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
    check_shape(function, name, tensor, shape);
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, function, ": ", name, " must be float32, got ",
                     tensor.scalar_type());
    check_device(function, name, tensor, "input", a.input);
  };
  TORCH_CHECK_VALUE(a.input.dim() == 2 && a.h0.dim() == 2 && a.input.size(1) > 0 && a.h0.size(1) > 0, function,
                    ": input must be [rows, input_size] and h0 [batch, hidden_size], got ", a.input.sizes(), " and ",
                    a.h0.sizes());
  check("input", a.input, a.input.sizes());
  check_batch_sizes(function, a.batch_sizes, a.input.size(0));
  check("h0", a.h0, {a.batch_sizes.const_data_ptr<int64_t>()[0], a.h0.size(1)});
  check("c0", a.c0, a.h0.sizes());
  TORCH_CHECK_VALUE(a.bias_ih.has_value() == a.bias_hh.has_value(), function,
                    ": give both of bias_ih and bias_hh or neither");
  if (a.bias_ih.has_value()) {
    check("bias_ih", *a.bias_ih, {4 * a.h0.size(1)});
    check("bias_hh", *a.bias_hh, {4 * a.h0.size(1)});
  }
}

struct QuantizedResult {
  at::Tensor output, h_n, c_n, total, maximum, argmax;
};

QuantizedResult run(const char* function, const QuantizedInputs& a, const PoolInputs* pool, bool reverse) {
  const at::TensorOptions options = a.input.options();
  const std::vector<int64_t> offsets = row_offsets(a.batch_sizes);
  LstmQuantizedForward args{};
  LstmSizes& sizes = args.sizes;
  sizes.steps = a.batch_sizes.size(0);
  sizes.rows = a.input.size(0);
  sizes.batch = a.h0.size(0);
  sizes.input = a.input.size(1);
  sizes.hidden = sizes.output = a.h0.size(1);
  sizes.reverse = reverse;
  sizes.batch_sizes = a.batch_sizes.const_data_ptr<int64_t>();
  sizes.offsets = offsets.data();
  const LstmQuantizedKernels& kernels = lstm_quantized_kernels();
  check_packed(function, a.packed, kernels.packed_bytes(sizes), a.input);
  const at::Tensor input = a.input.contiguous(), h0 = a.h0.contiguous();
  const at::Tensor bias = a.bias_ih.has_value() ? a.bias_ih->add(*a.bias_hh) : at::zeros({4 * sizes.hidden}, options);
  args.keep_output = pool == nullptr;
  const at::Tensor output = new_tensor({args.keep_output ? sizes.rows : 2 * sizes.batch, sizes.hidden}, options);
  QuantizedResult result{output, at::empty_like(h0), a.c0.clone(at::MemoryFormat::Contiguous), {}, {}, {}};
  at::Tensor count, pool_from;
  if (pool != nullptr) {
    result.total = pool->total->clone(at::MemoryFormat::Contiguous);
    result.maximum = pool->maximum->clone(at::MemoryFormat::Contiguous);
    result.argmax = pool->argmax.clone(at::MemoryFormat::Contiguous);
    count = pool->count.contiguous();
    pool_from = pool->pool_from.contiguous();
    args.pool = {mutable_elements<double>(result.total), mutable_elements<float>(result.maximum),
                 mutable_elements<int32_t>(result.argmax), elements<int64_t>(count), elements<int64_t>(pool_from)};
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_quantized(const at::Tensor& input, const at::Tensor& batch_sizes,
                                                              const at::Tensor& h0, const at::Tensor& c0,
                                                              const at::Tensor& packed, const OptionalTensor& bias_ih,
                                                              const OptionalTensor& bias_hh, bool reverse) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_quantized";
  const QuantizedInputs a{input, batch_sizes, h0, c0, packed, bias_ih, bias_hh};
  check_inputs(kFunction, a);
  const QuantizedResult result = run(kFunction, a, nullptr, reverse);
  return {result.output, result.h_n, result.c_n};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm_pool_quantized(
    const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0, const at::Tensor& c0,
    const at::Tensor& packed, const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const at::Tensor& total,
    const at::Tensor& maximum, const at::Tensor& argmax, const at::Tensor& count, const at::Tensor& pool_from) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool_quantized";
  const QuantizedInputs a{input, batch_sizes, h0, c0, packed, bias_ih, bias_hh};
  check_inputs(kFunction, a);
  const OptionalTensor none, state_total(total), state_maximum(maximum);
  const LstmInputs sizes{input, batch_sizes, h0, c0, packed, packed, none, none, none, packed, 0.0};
  const PoolInputs pool{argmax, count, pool_from, state_total, state_maximum};
  check_pool(kFunction, pool, sizes, /*backward=*/false);
  const QuantizedResult result = run(kFunction, a, &pool, false);
  return {result.h_n, result.c_n, result.total, result.maximum, result.argmax};
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm_quantized_pack", &lstm_quantized_pack);
  m.impl("lstm_quantized", &lstm_quantized);
  m.impl("lstm_pool_quantized", &lstm_pool_quantized);
}

}  // namespace ulmfit_fast
