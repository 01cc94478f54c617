// lstm and lstm_pool without a graph, on weights that were packed before: lstm_pack, lstm_packed, lstm_pool_packed.
#include "lstm_call.h"

namespace ulmfit_fast {
namespace {

Tensor lstm_pack(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& weight_hr, ScalarType dtype) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pack";
  ULMFIT_CHECK_VALUE(weight_ih.dim() == 2 && weight_ih.size(0) % 4 == 0 && weight_ih.numel() > 0, kFunction,
                     ": weight_ih must be [4 * hidden, input], not empty, got ", weight_ih.sizes());
  ULMFIT_CHECK_VALUE(weight_hh.dim() == 2 && weight_hh.size(0) == weight_ih.size(0) && weight_hh.numel() > 0, kFunction,
                     ": weight_hh must be [4 * hidden, output] with the rows of weight_ih (", weight_ih.size(0),
                     "), got ", weight_hh.sizes());
  const int64_t hidden = weight_ih.size(0) / 4;
  const ScalarType wider = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const auto check = [&](const char* name, const Tensor& weight) {
    ULMFIT_CHECK_TYPE(dtype_of(weight) == dtype || dtype_of(weight) == wider, kFunction, ": ", name,
                      " must have the dtype to pack for (", dtype, ") or ", wider, ", got ", dtype_of(weight));
    check_device(kFunction, name, weight, "weight_ih", weight_ih);
  };
  check("weight_ih", weight_ih);
  check("weight_hh", weight_hh);
  if (weight_hr.has_value()) {
    check_shape(kFunction, "weight_hr", *weight_hr, {weight_hh.size(1), hidden});
    check("weight_hr", *weight_hr);
  } else {
    ULMFIT_CHECK_VALUE(weight_hh.size(1) == hidden, kFunction, ": weight_hh must be [4 * hidden, hidden] without ",
                       "weight_hr, got ", weight_hh.sizes());
  }
  return run_lstm_pack_cpu(weight_ih, weight_hh, weight_hr, dtype);
}

const Tensor& no_seed() {
  static const Tensor seed = [] {
    const Tensor zero = new_tensor({}, ScalarType::Long);
    clear(zero);
    return zero;
  }();
  return seed;
}

int64_t bytes_of(const LstmInputs& a) {
  return lstm_packed_bytes(dtype_of(a.input), a.input_size(), a.hidden(), a.output_size(), a.weight_hr.has_value());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_packed(const Tensor& input, const Tensor& batch_sizes, const Tensor& h0,
                                                       const Tensor& c0, const Tensor& weight_ih,
                                                       const Tensor& weight_hh, const OptionalTensor& bias_ih,
                                                       const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
                                                       const Tensor& packed, bool reverse, int64_t keep) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_packed";
  const LstmInputs a{input,   batch_sizes, h0,        c0,        weight_ih, weight_hh,
                     bias_ih, bias_hh,     weight_hr, no_seed(), 0.0,       &packed};
  check_lstm(kFunction, a, reverse, 0);
  check_packed(kFunction, packed, bytes_of(a), input);
  const Keep kept = keep == 0 ? Keep::kNothing : Keep::kStates;
  const ForwardResult result =
      a.rows() == 0 ? forward_without_rows(a, nullptr, kept) : run_lstm_forward_cpu(a, nullptr, reverse, kept);
  return {result.output, result.h_n, result.c_n, result.cells};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_pool_packed(
    const Tensor& input, const Tensor& batch_sizes, const Tensor& h0, const Tensor& c0, const Tensor& weight_ih,
    const Tensor& weight_hh, const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const Tensor& total,
    const Tensor& maximum, const Tensor& argmax, const Tensor& count, const Tensor& pool_from, const Tensor& packed,
    int64_t keep) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool_packed";
  const OptionalTensor no_projection, state_total(total), state_maximum(maximum);
  const LstmInputs a{input,   batch_sizes,   h0,        c0,  weight_ih, weight_hh, bias_ih,
                     bias_hh, no_projection, no_seed(), 0.0, &packed};
  const PoolInputs pool{argmax, count, pool_from, state_total, state_maximum};
  check_lstm(kFunction, a, false, 0);
  check_pool(kFunction, pool, a, /*backward=*/false);
  check_packed(kFunction, packed, bytes_of(a), input);
  const Keep kept = keep == 0 ? Keep::kNothing : Keep::kStates;
  const ForwardResult result =
      a.rows() == 0 ? forward_without_rows(a, &pool, kept) : run_lstm_forward_cpu(a, &pool, false, kept);
  return {result.h_n,          result.c_n,    result.pool->total, result.pool->maximum,
          result.pool->argmax, result.output, result.cells};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm_pack", TORCH_BOX(&lstm_pack));
  m.impl("lstm_packed", TORCH_BOX(&lstm_packed));
  m.impl("lstm_pool_packed", TORCH_BOX(&lstm_pool_packed));
}

}  // namespace ulmfit_fast
