// What lstm and lstm_pool share on CUDA.
#pragma once

#include "../lstm_call.h"
#include "fused_step_plan.h"
#include "persistent_flags.h"
#include "persistent_plan.h"

namespace ulmfit_fast {
namespace cuda {

// How a call's steps run.
struct Recurrence {
  bool fused = false;                              // by kernels of our own, where sizes and device allow it
  std::optional<FusedTiles> tiles = std::nullopt;  // none: as planned
  // Forward in one launch, where sizes and device allow it: where it says that it gave up; null: step by step.
  uint64_t* status = nullptr;
  std::optional<PersistentTiles> persistent_tiles = std::nullopt;  // none: as planned
  int64_t most_polls = kMostPolls;
  bool must_persist = false;  // an error where it cannot
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
