#include "lstm_call.h"

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("lstm_pool", TORCH_BOX(&ulmfit_fast::lstm_pool_op<ulmfit_fast::run_lstm_forward_cuda>));
  m.impl("lstm_pool_backward", TORCH_BOX(&ulmfit_fast::lstm_pool_backward_op<ulmfit_fast::run_lstm_backward_cuda>));
}
