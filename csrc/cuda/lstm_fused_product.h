// The product of backward's steps on tensor cores, as fused_backward.h launches it. All pointers are the device's. For
// float16 and bfloat16.
#pragma once

#include "elements.h"
#include "fused_step_plan.h"

namespace ulmfit_fast::cuda {

template <typename E>
struct FusedProduct {
  int64_t rows, hidden;
  const E* gates;       // [rows, 4H] gradients of the step computed before
  const E* weight;      // [4H, H] not dropped
  const uint8_t* keep;  // [4H, H / 8] bits, or null: all
  float* parts;         // [splits, rows, H] partial sums, not scaled by 1 / (1-p)
  int splits;
};

template <typename E>
void fused_product(cudaStream_t stream, const FusedProduct<E>& product, int row_tiles);

}  // namespace ulmfit_fast::cuda
