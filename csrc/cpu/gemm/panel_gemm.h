// The matrix multiply under every CPU kernel: rows times one packed panel of weights.
//
// A panel holds 1 to 4 vectors of output columns for every depth. Which columns is the packer's choice (pack.h): in
// gate layout vector v is gate v of the same hidden units, so that a tile ends holding i, f, g, o together.
//
// Depth is consumed in groups: one element, or a pair of bfloat16. A group takes `kWords` vectors of words in a panel:
//   float, double   one word an element
//   bfloat16        one word a pair with AVX512-BF16, multiplied by vdpbf16ps; else two floats, converted by the packer
//
// The product itself is in panel_gemm.cpp.
#pragma once

#include <cassert>

#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int kPanelVectors = 4;  // at most, and always in gate layout
constexpr int kTileRows = 6;
// 6 x 4 accumulators + 4 weights + 1 broadcast of 32 registers; 6 x 2 + 2 + 1 of 16: a panel is then two tiles wide,
// one behind the other, but for one or two rows, which take both at once (2 x 4 + 4 + 1).
constexpr int kTileVectors = ULMFIT_VECTOR_REGISTERS == 32 ? 4 : 2;

template <typename E>
struct PanelFormat {
  using Word = E;
  static constexpr int64_t kGroup = 1, kWords = 1;
};
template <>
struct PanelFormat<Bfloat16> {
  static constexpr int64_t kGroup = 2;
#if defined(ULMFIT_BFLOAT16_PAIRS)
  using Word = uint32_t;
  static constexpr int64_t kWords = 1;
#else
  using Word = float;
  static constexpr int64_t kWords = 2;
#endif
};
template <typename E>
using Word = typename PanelFormat<E>::Word;
template <typename E>
constexpr int64_t kGroup = PanelFormat<E>::kGroup;

template <typename E>
static inline int64_t depth_groups(int64_t depth) {
  return (depth + kGroup<E> - 1) / kGroup<E>;
}

// Word vectors that one column vector of a panel has.
template <typename E>
static inline int64_t panel_depth(int64_t depth) {
  return depth_groups<E>(depth) * PanelFormat<E>::kWords;
}

// Words of all panels over `vectors` column vectors.
template <typename E>
static inline int64_t packed_words(int64_t vectors, int64_t depth) {
  return vectors * panel_depth<E>(depth) * kLanes<E>;
}

template <typename E>
static inline int64_t column_vectors(int64_t columns) {
  return (columns + kLanes<E> - 1) / kLanes<E>;
}

// A packed panel of `width` column vectors, one tile's width after the other.
template <typename E>
struct Panel {
  Word<E>* words;
  int width;
  int64_t depth;       // elements
  bool alone = false;  // what is multiplied next does not lie behind it

  // Word vector `d` of column vector `v`.
  Word<E>* at(int v, int64_t d) const {
    const int tile = v / kTileVectors;
    return words +
           ((tile * panel_depth<E>(depth) * kTileVectors) + d * tile_width(tile) + v % kTileVectors) * kLanes<E>;
  }
  int tiles() const { return (width + kTileVectors - 1) / kTileVectors; }
  int tile_width(int tile) const {
    const int rest = width - tile * kTileVectors;
    return rest < kTileVectors ? rest : kTileVectors;
  }
};

// The left operand: element k of row r stands at rows[r][k] or, in tiles that were turned round (pack_tiles), at
// rows[r] + k / kGroup * kTileRows * kGroup + k % kGroup.
template <typename E>
struct RowBlock {
  const E* const* rows;
  int64_t count;
  bool turned = false;
};

// Where sums start from: row r at from + r * stride. One row for all (a bias) has stride 0.
template <typename E>
struct Start {
  const Accumulator<E>* from;
  int64_t stride;
};

// Where sums go: row r to to + r * stride.
template <typename E>
struct Sums {
  Accumulator<E>* to;
  int64_t stride;

  operator Start<E>() const { return {to, stride}; }
};

// Addresses whose cache lines a product brings to L2 while it multiplies, for work that follows and touches many arrays
// a little, which the processor does not foresee.
struct Prefetch {
  const void** lines = nullptr;
  int64_t capacity = 0, count = 0;

  static constexpr int64_t kLine = 64;

  // The most lines that `elements` of a T, aligned as it should be, can lie on.
  template <typename T>
  static constexpr int64_t most_lines(int64_t elements) {
    return (elements * static_cast<int64_t>(sizeof(T)) - 2) / kLine + 2;
  }
  template <typename T>
  void add(const T* from, int64_t elements) {
    const auto begin = reinterpret_cast<uintptr_t>(from) / kLine * kLine;
    const auto end = reinterpret_cast<uintptr_t>(from + elements);
    for (uintptr_t line = begin; line < end; line += kLine) {
      assert(count < capacity);
      lines[count++] = reinterpret_cast<const void*>(line);
    }
  }

  // Brings a part of the list on to L1, just before it is used.
  void to_l1(int64_t part, int64_t parts) const {
    for (int64_t i = count * part / parts; i < smaller(count * (part + 1) / parts, count); ++i)
      __builtin_prefetch(lines[i], 0, 3);
  }
};

// out[r] = start[r] + rows[r] x panel, panel.width vectors of them. `start` may be `out` itself.
template <typename E>
void multiply_panel(Sums<E> out, Start<E> start, const RowBlock<E>& block, const Panel<E>& panel,
                    Prefetch prefetch = {});

// The rows of `out` lie one after the other.
template <typename E>
static inline void multiply_panel(Accumulator<E>* out, Start<E> start, const RowBlock<E>& block, const Panel<E>& panel,
                                  Prefetch prefetch = {}) {
  multiply_panel<E>(Sums<E>{out, panel.width * kLanes<E>}, start, block, panel, prefetch);
}

// A sum that starts from nothing.
template <typename E>
static inline Start<E> zeros() {
  static constexpr Accumulator<E> kZeros[kPanelVectors * kLanes<E>] = {};
  return {kZeros, 0};
}

// Rows of a tile, `width` vectors each, into columns column .. of row-major `to` [rows, columns].
template <typename E>
static inline void store_tile(E* to, int64_t columns, int64_t column, const Accumulator<E>* tile, int64_t rows,
                              int width) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int v = 0; v < width; ++v) {
      const int64_t at = column + v * kLanes<E>;
      if (at < columns) store(to + r * columns + at, load(tile + (r * width + v) * kLanes<E>), columns - at);
    }
  }
}

}  // namespace ulmfit_fast::ULMFIT_ISA
