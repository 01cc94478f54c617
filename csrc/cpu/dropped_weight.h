// DropConnect on the way into a panel: rows of a weight, masked and scaled in a small buffer, never the whole tensor.
#pragma once

#include "../common/philox.h"
#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

// keep[j] = whether DropConnect keeps element `first + j` of the flattened weight, j < count.
static inline void keep_bits(uint8_t* keep, const DropConnect& drop, int64_t first, int64_t count) {
  constexpr int kBlock = 16;  // counters at a time, in arrays that the compiler turns into vectors
  const uint64_t threshold = keep_threshold(drop.p);
  const uint32_t key0 = static_cast<uint32_t>(drop.seed), key1 = static_cast<uint32_t>(drop.seed >> 32);
  for (int64_t counter = first / 4; counter * 4 < first + count; counter += kBlock) {
    uint32_t c0[kBlock], c1[kBlock], c2[kBlock] = {}, c3[kBlock] = {};
    for (int i = 0; i < kBlock; ++i) {
      c0[i] = static_cast<uint32_t>(counter + i);
      c1[i] = static_cast<uint32_t>(static_cast<uint64_t>(counter + i) >> 32);
    }
    uint32_t k0 = key0, k1 = key1;
    for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
      for (int i = 0; i < kBlock; ++i) {
        const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0[i];
        const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2[i];
        c0[i] = static_cast<uint32_t>(product1 >> 32) ^ c1[i] ^ k0;
        c1[i] = static_cast<uint32_t>(product1);
        c2[i] = static_cast<uint32_t>(product0 >> 32) ^ c3[i] ^ k1;
        c3[i] = static_cast<uint32_t>(product0);
      }
    }
    uint8_t block[kBlock * 4];
    for (int i = 0; i < kBlock; ++i) {
      block[4 * i + 0] = c0[i] >= threshold;
      block[4 * i + 1] = c1[i] >= threshold;
      block[4 * i + 2] = c2[i] >= threshold;
      block[4 * i + 3] = c3[i] >= threshold;
    }
    const int64_t begin = counter * 4 - first;  // may be negative in the first block
    const int64_t from = begin < 0 ? -begin : 0;
    const int64_t to = count - begin < kBlock * 4 ? count - begin : kBlock * 4;
    for (int64_t j = from; j < to; ++j) keep[begin + j] = block[j];
  }
}

// to[j] = from[j] * mask * scale for the weight's elements first + j, j < count. `to` may be `from`.
template <typename E>
static inline void drop(E* to, const E* from, const DropConnect& dropconnect, int64_t first, int64_t count) {
  constexpr int64_t kBlock = 1024;
  uint8_t keep[kBlock];
  const auto scale = static_cast<Accumulator<E>>(dropconnect.scale());
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t block = count - begin < kBlock ? count - begin : kBlock;
    keep_bits(keep, dropconnect, first + begin, block);
    for (int64_t j = 0; j < block; j += kLanes<E>) {
      Vec<E> mask;
      for (int lane = 0; lane < kLanes<E>; ++lane) mask[lane] = keep[j + lane] ? scale : 0;  // kBlock % lanes == 0
      const Vec<E> value = load(from + begin + j, block - j);
      store(to + begin + j, mask != 0 ? value * mask : Vec<E>{}, block - j);
    }
  }
}

// A weight [rows, columns], row-major, as the packers read it.
template <typename E>
struct DroppedWeight {
  const E* weight;
  int64_t columns;
  DropConnect dropconnect;
  E* buffer;  // scratch for as many rows as the packer asks for at a time

  // Elements begin .. begin + count of row `index`: in place, or dropped into slot `slot` of the buffer.
  const E* row(int64_t index, int64_t begin, int64_t count, int64_t slot) const {
    const int64_t first = index * columns + begin;
    if (!dropconnect.enabled()) return weight + first;
    E* to = buffer + slot * count;
    drop(to, weight + first, dropconnect, first, count);
    return to;
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
