// What lstm and lstm_pool share on CPU.
#pragma once

#include "../../lstm_call.h"

namespace ulmfit_fast {

ForwardResult run_lstm_forward_cpu(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);
Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs);

}  // namespace ulmfit_fast
