// The whole recurrence of a call in one launch, as persistent_forward.h launches it. All pointers are the device's. For
// float16 and bfloat16.
#pragma once

#include "lstm_kernels.h"
#include "packed_runs.h"
#include "persistent_flags.h"
#include "persistent_plan.h"

namespace ulmfit_fast::cuda {

template <typename E>
struct PersistentLaunch {
  PackedRuns runs;      // its steps
  bool reversed;        //
  ForwardStep<E> cell;  // what all steps share: sizes, x W_ih^T, where results go; c: before and after the launch
  const E* weight;      // [4H, H] not dropped
  const int64_t* seed;  // as of `drop`
  int64_t seed_value;   //
  uint64_t threshold;   // 0: nothing is dropped
  float scale;          // of the kept weights
  const E* h0;          // [B, H] h of each row before the launch
  E* h;                 // [B, H] and after it
  E* exchange;          // [2, B, H] h of two steps, for other blocks
  int64_t batch;        // B
  Epoch* flags;         // [groups, slices] zero before the call's first launch
  Epoch before;         // steps that the call's launches before this one had
  int slices;           //
  int64_t most_polls;   // before a wait is given up
  uint64_t* status;     // written then: persistent_flags.h
};

// Whether the device had room for all blocks; if not, nothing has been done.
template <typename E>
bool persistent_forward(cudaStream_t stream, const PersistentLaunch<E>& launch, const PersistentPlan& plan);

}  // namespace ulmfit_fast::cuda
