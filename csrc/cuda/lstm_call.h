// What lstm and lstm_pool share on CUDA.
#pragma once

#include "../lstm_call.h"
#include "fused_step_plan.h"

namespace ulmfit_fast {
namespace cuda {

// How a call's steps run.
struct Recurrence {
  bool fused = false;                              // by kernels of our own, where sizes and device allow it
  std::optional<FusedTiles> tiles = std::nullopt;  // none: as planned
};

ForwardResult run_lstm_forward(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep,
                               const Recurrence& how);
Backward run_lstm_backward(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                           int64_t bptt, const Saved& saved, Needs needs, const Recurrence& how);

}  // namespace cuda

ForwardResult run_lstm_forward_cuda(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);
Backward run_lstm_backward_cuda(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                                int64_t bptt, const Saved& saved, Needs needs);

}  // namespace ulmfit_fast
