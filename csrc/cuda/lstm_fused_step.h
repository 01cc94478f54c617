// The LSTM's recurrent product and its cell in one launch a step, as fused_forward.h launches them. All pointers are
// the device's. For float16 and bfloat16.
#pragma once

#include "fused_step_plan.h"
#include "lstm_kernels.h"

namespace ulmfit_fast::cuda {

// Which weights are kept, a bit each, lowest first: keep [weights / 8]. The seed as of `drop`.
void draw_keep_bits(cudaStream_t stream, uint8_t* keep, const int64_t* seed, int64_t seed_value, uint64_t threshold,
                    int64_t weights);

// h of the step before stands where that step wrote it: `cell.output` from `previous_row` on, for `continuing` rows;
// the others begin with h0. So no block overwrites what another still reads.
template <typename E>
struct FusedForwardStep {
  ForwardStep<E> cell;  // without from_state
  const E* weight;      // [4H, H] not dropped
  const uint8_t* keep;  // [4H, H / 8] bits, or null: all
  float scale;          // of the kept ones
  const E* h0;          // [B, H]
  int64_t previous_row, continuing;
};

template <typename E>
void fused_forward_step(cudaStream_t stream, const FusedForwardStep<E>& step, FusedTiles tiles);

}  // namespace ulmfit_fast::cuda
