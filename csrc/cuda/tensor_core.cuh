// A warp's product on tensor cores: sums [16, 8] += a [16, 16] x b [16, 8], as PTX's mma.m16n8k16 spreads them over
// lanes. Lane 4 g + t holds
//
//   sums   (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   a      pairs of columns from (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   b      pairs of rows from (2t, g), (2t + 8, g)
//
// A sum over the depth has no order. So a lane may load 8 neighbours, 16 bytes, at 8 t of a row, and use their first
// two pairs for one product, the others for a second: a and b then agree on what each place of the depth stands for.
#pragma once

#include <type_traits>

#include "elements.h"

namespace ulmfit_fast::cuda {

// Eight neighbouring elements of two bytes.
struct alignas(16) Eight {
  uint32_t pairs[4];
};

template <typename E>
__device__ inline Eight load_eight(const E* from) {
  return *reinterpret_cast<const Eight*>(from);
}

// Of eight weights those stay whose bits are set, the lowest first.
__device__ inline void clear_dropped(Eight& weight, uint32_t keep) {
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t low = (keep >> (2 * pair)) & 1u, high = (keep >> (2 * pair + 1)) & 1u;
    weight.pairs[pair] &= low * 0xFFFFu | high * 0xFFFF0000u;
  }
}

// All lanes of a warp together. E: bfloat16 or float16.
template <typename E>
__device__ inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifndef __CUDACC__  // csrc/cuda compiled for the host, by tests
  cuda_on_host::multiply_add<E>(sums, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // which has no such product: fused_step_plan.h
#else
  if constexpr (std::is_same_v<E, c10::BFloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace ulmfit_fast::cuda
