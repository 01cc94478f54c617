// DropConnect's mask as bits, eight neighbouring weights at a time.
#pragma once

#include "../common/philox.h"

namespace ulmfit_fast::cuda {

// Of weights 8 index to 8 index + 7, the lowest bit first: 1 where a weight is kept.
__device__ inline uint32_t keep_bits_of_eight(uint64_t key, int64_t index, uint64_t threshold) {
  uint32_t byte = 0;
  for (int half = 0; half < 2; ++half) {
    uint32_t bits[4];
    philox4x32(key, static_cast<uint64_t>(2 * index + half), bits);
    for (int i = 0; i < 4; ++i) byte |= (bits[i] >= threshold ? 1u : 0u) << (4 * half + i);
  }
  return byte;
}

}  // namespace ulmfit_fast::cuda
