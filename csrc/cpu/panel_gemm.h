// The matrix multiply under every CPU kernel: a few rows times one packed panel of weights.
//
// A panel holds 4 vectors of output columns for every depth k, contiguous: panel[(k * 4 + v) * lanes + lane]. Which
// columns those are is the packer's choice:
//   gate layout   vector v = gate v of the same `lanes` hidden units, so that a tile ends holding i, f, g, o together;
//   plain layout  4 * lanes neighbouring columns.
// Limit: the FMA ports, and the load ports close behind: GCC 12 folds the weight loads into the FMAs, 30 loads for 24
// of them in a full AVX-512 tile. The share of the peak reached is not measured yet. A row's sum runs over k in order,
// in one accumulator, whatever the other rows are: results do not depend on the batch.
#pragma once

#include "../common/philox.h"
#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int kVectors = 4;  // vectors of output columns in a panel

template <typename T>
constexpr int64_t kPanelColumns = kVectors * kLanes<T>;

constexpr int64_t kDepthBlock = 512;  // a panel's slab of this depth (128 KB in AVX-512) stays in L2 over all rows

template <typename T>
static inline int64_t gate_panels(int64_t hidden) {
  return (hidden + kLanes<T> - 1) / kLanes<T>;
}

template <typename T>
static inline int64_t plain_panels(int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T>;
}

// tile[Rows][4 * lanes] (+)= rows[Rows][depth] x panel
template <typename T, int Rows, bool Accumulate>
static inline void multiply_tile(T* tile, const T* const* rows, int64_t offset, const T* panel, int64_t depth) {
  Vec<T> sum[Rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Accumulate ? load(tile + (r * kVectors + v) * kLanes<T>) : Vec<T>{};
  }
  const T* row[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) row[r] = rows[r] + offset;
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> weight[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weight[v] = load(panel + (k * kVectors + v) * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vec<T> value = broadcast(row[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += value * weight[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(tile + (r * kVectors + v) * kLanes<T>, sum[r][v]);
  }
}

template <typename T, bool Accumulate>
static inline void multiply_rows(int64_t count, T* tile, const T* const* rows, int64_t offset, const T* panel,
                                 int64_t depth) {
  switch (count) {
    case 1:
      return multiply_tile<T, 1, Accumulate>(tile, rows, offset, panel, depth);
    case 2:
      return multiply_tile<T, 2, Accumulate>(tile, rows, offset, panel, depth);
#if ULMFIT_TILE_ROWS > 3
    case 3:
      return multiply_tile<T, 3, Accumulate>(tile, rows, offset, panel, depth);
    case 4:
      return multiply_tile<T, 4, Accumulate>(tile, rows, offset, panel, depth);
    case 5:
      return multiply_tile<T, 5, Accumulate>(tile, rows, offset, panel, depth);
#endif
    default:
      return multiply_tile<T, ULMFIT_TILE_ROWS, Accumulate>(tile, rows, offset, panel, depth);
  }
}

// tile[count][4 * lanes] = rows[count][depth] x panel; `rows` holds a pointer to each row.
template <typename T>
static inline void multiply_panel(T* tile, const T* const* rows, int64_t count, const T* panel, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kDepthBlock) {
    const int64_t block = depth - k < kDepthBlock ? depth - k : kDepthBlock;
    const T* slab = panel + k * kPanelColumns<T>;
    for (int64_t r = 0; r < count; r += ULMFIT_TILE_ROWS) {
      const int64_t n = count - r < ULMFIT_TILE_ROWS ? count - r : ULMFIT_TILE_ROWS;
      T* out = tile + r * kPanelColumns<T>;
      if (k == 0)
        multiply_rows<T, false>(n, out, rows + r, k, slab, block);
      else
        multiply_rows<T, true>(n, out, rows + r, k, slab, block);
    }
  }
}

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

// values[j] *= mask * scale for the weight's elements first + j, j < count. `keep` is scratch of `count` bytes.
template <typename T>
static inline void drop(T* values, uint8_t* keep, const DropConnect& dropconnect, int64_t first, int64_t count) {
  keep_bits(keep, dropconnect, first, count);
  const T scale = static_cast<T>(dropconnect.scale());
  for (int64_t j = 0; j < count; ++j) values[j] = keep[j] ? values[j] * scale : T(0);
}

// A weight as the packers read it: DropConnect applied row by row in a buffer, never to the whole tensor.
template <typename T>
struct DroppedWeight {
  const T* weight;  // [rows, columns] row-major
  int64_t columns;
  DropConnect dropconnect;
  T* values;      // scratch [columns]
  uint8_t* keep;  // scratch [columns]

  const T* row(int64_t index, int64_t begin, int64_t count) const {
    const int64_t first = index * columns + begin;
    if (!dropconnect.enabled()) return weight + first;
    std::memcpy(values, weight + first, count * sizeof(T));
    drop(values, keep, dropconnect, first, count);
    return values;
  }
};

// One panel of weight^T in gate layout; weight [4 * hidden, depth], depth is the dimension summed over.
template <typename T>
static inline void pack_gate_panel(T* to, const DroppedWeight<T>& weight, int64_t hidden, int64_t panel) {
  const int64_t depth = weight.columns;
  for (int gate = 0; gate < kVectors; ++gate) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const int64_t unit = panel * kLanes<T> + lane;
      T* column = to + gate * kLanes<T> + lane;
      if (unit >= hidden) {
        for (int64_t k = 0; k < depth; ++k) column[k * kPanelColumns<T>] = T(0);
        continue;
      }
      const T* row = weight.row(gate * hidden + unit, 0, depth);
      for (int64_t k = 0; k < depth; ++k) column[k * kPanelColumns<T>] = row[k];
    }
  }
}

// One panel of weight^T in plain layout; weight [columns, depth] row-major.
template <typename T>
static inline void pack_transposed_panel(T* to, const T* weight, int64_t columns, int64_t depth, int64_t panel) {
  for (int64_t lane = 0; lane < kPanelColumns<T>; ++lane) {
    const int64_t column = panel * kPanelColumns<T> + lane;
    for (int64_t k = 0; k < depth; ++k)
      to[k * kPanelColumns<T> + lane] = column < columns ? weight[column * depth + k] : T(0);
  }
}

// Panels [first, last) of weight [depth, columns] in plain layout, depth * 4 * lanes apart, `to` being panel `first`.
template <typename T>
static inline void pack_plain_panels(T* to, const DroppedWeight<T>& weight, int64_t depth, int64_t first,
                                     int64_t last) {
  constexpr int64_t kWidth = kPanelColumns<T>;
  const int64_t begin = first * kWidth;
  const int64_t end = last * kWidth < weight.columns ? last * kWidth : weight.columns;
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = weight.row(k, begin, end - begin);
    for (int64_t j = 0; j < (last - first) * kWidth; ++j)
      to[((j / kWidth) * depth + k) * kWidth + j % kWidth] = j < end - begin ? row[j] : T(0);
  }
}

}  // namespace ulmfit_fast::ULMFIT_ISA
