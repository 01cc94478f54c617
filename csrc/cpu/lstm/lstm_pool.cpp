#include <torch/library.h>

#include "lstm_call.h"

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm_pool", &ulmfit_fast::lstm_pool_op<ulmfit_fast::run_lstm_forward_cpu>);
  m.impl("lstm_pool_backward", &ulmfit_fast::lstm_pool_backward_op<ulmfit_fast::run_lstm_backward_cpu>);
}
