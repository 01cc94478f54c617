// lstm on CPU.
#include <torch/library.h>

#include "lstm_call.h"

namespace ulmfit_fast {
namespace {

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Forward lstm_cpu(const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0, const at::Tensor& c0,
                 const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& bias_ih,
                 const OptionalTensor& bias_hh, const OptionalTensor& weight_hr, const at::Tensor& seed,
                 double weight_dropout, bool reverse, int64_t bptt, int64_t keep) {
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     bias_ih, bias_hh,     weight_hr, seed, weight_dropout};
  check_lstm("ulmfit_fast.ops.lstm", a, reverse, bptt);
  const ForwardResult result = run_lstm_forward(a, nullptr, reverse, static_cast<Keep>(keep));
  return {result.output, result.h_n, result.c_n, result.gates, result.cells};
}

Backward lstm_backward_cpu(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                           const OptionalTensor& grad_c_n, const at::Tensor& input, const at::Tensor& batch_sizes,
                           const at::Tensor& h0, const at::Tensor& c0, const at::Tensor& weight_ih,
                           const at::Tensor& weight_hh, const OptionalTensor& weight_hr, const at::Tensor& seed,
                           double weight_dropout, bool reverse, int64_t bptt, const at::Tensor& output,
                           const at::Tensor& gates, const at::Tensor& cells, std::array<bool, 6> needs) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_backward";
  const OptionalTensor no_bias;
  const LstmInputs a{input,   batch_sizes, h0,        c0,   weight_ih,     weight_hh,
                     no_bias, no_bias,     weight_hr, seed, weight_dropout};
  check_lstm(kFunction, a, reverse, bptt);
  return run_lstm_backward(kFunction, {grad_output, grad_h_n, grad_c_n}, a, nullptr, reverse, bptt,
                           {output, gates, cells}, needs);
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm", &lstm_cpu);
  m.impl("lstm_backward", &lstm_backward_cpu);
}

}  // namespace ulmfit_fast
