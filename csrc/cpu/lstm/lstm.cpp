#include "lstm_call.h"

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("lstm", TORCH_BOX(&ulmfit_fast::lstm_op<ulmfit_fast::run_lstm_forward_cpu>));
  m.impl("lstm_backward", TORCH_BOX(&ulmfit_fast::lstm_backward_op<ulmfit_fast::run_lstm_backward_cpu>));
}
