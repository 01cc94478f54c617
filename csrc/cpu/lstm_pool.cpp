// lstm_pool on CPU.
#include "../lstm_pool.h"

#include <torch/library.h>

#include "lstm_call.h"

namespace ulmfit_fast {
namespace {

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                           at::Tensor>;

Forward lstm_pool_cpu(const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0,
                      const at::Tensor& c0, const at::Tensor& weight_ih, const at::Tensor& weight_hh,
                      const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const at::Tensor& total,
                      const at::Tensor& maximum, const at::Tensor& argmax, const at::Tensor& count,
                      const at::Tensor& pool_from, const at::Tensor& seed, double weight_dropout, int64_t bptt,
                      int64_t keep) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool";
  const OptionalTensor no_projection, state_total(total), state_maximum(maximum);
  const LstmInputs a{input,   batch_sizes, h0,            c0,   weight_ih,     weight_hh,
                     bias_ih, bias_hh,     no_projection, seed, weight_dropout};
  const PoolInputs pool{argmax, count, pool_from, state_total, state_maximum};
  check_lstm(kFunction, a, false, bptt);
  check_pool(kFunction, pool, a);
  const ForwardResult result = run_lstm_forward(a, &pool, false, static_cast<Keep>(keep));
  return {result.h_n,    result.c_n,    result.total, result.maximum,
          result.argmax, result.output, result.gates, result.cells};
}

Backward lstm_pool_backward_cpu(const OptionalTensor& grad_h_n, const OptionalTensor& grad_c_n,
                                const OptionalTensor& grad_total, const OptionalTensor& grad_maximum,
                                const at::Tensor& input, const at::Tensor& batch_sizes, const at::Tensor& h0,
                                const at::Tensor& c0, const at::Tensor& weight_ih, const at::Tensor& weight_hh,
                                const at::Tensor& argmax, const at::Tensor& count, const at::Tensor& pool_from,
                                const at::Tensor& seed, double weight_dropout, int64_t bptt,
                                const at::Tensor& output, const at::Tensor& gates, const at::Tensor& cells,
                                std::array<bool, 6> needs) {
  constexpr const char* kFunction = "ulmfit_fast.ops.lstm_pool_backward";
  const OptionalTensor none;
  const LstmInputs a{input, batch_sizes, h0, c0, weight_ih, weight_hh, none, none, none, seed, weight_dropout};
  const PoolInputs pool{argmax, count, pool_from, grad_total, grad_maximum};
  check_lstm(kFunction, a, false, bptt);
  check_pool(kFunction, pool, a);
  return run_lstm_backward(kFunction, {none, grad_h_n, grad_c_n}, a, &pool, false, bptt, {output, gates, cells},
                           needs);
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm_pool", &lstm_pool_cpu);
  m.impl("lstm_pool_backward", &lstm_pool_backward_cpu);
}

}  // namespace ulmfit_fast
