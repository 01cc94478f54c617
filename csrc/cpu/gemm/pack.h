// Matrices into the panels that panel_gemm.h multiplies by. Limit: the way to memory and back.
#pragma once

#include "dropped_weight.h"
#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {

// A vector of words of a row.
template <typename T>
static inline Vec<T> load_whole_words(const T* from) {
  return load(from);
}

static inline Vec<Word<Bfloat16>> load_whole_words(const Bfloat16* from) {
#if defined(ULMFIT_BFLOAT16_PAIRS)
  return load(reinterpret_cast<const uint32_t*>(from));
#else
  return load(from);
#endif
}

// Words word .. word + lanes of a row of `depth` elements; what lies beyond the row is zero.
template <typename T>
static inline Vec<T> load_words(const T* row, int64_t word, int64_t depth) {
  return word < depth ? load(row + word, depth - word) : Vec<T>{};
}

static inline Vec<Word<Bfloat16>> load_words(const Bfloat16* row, int64_t word, int64_t depth) {
#if defined(ULMFIT_BFLOAT16_PAIRS)
  const int64_t elements = depth - 2 * word;
  WordVec words = {};
  if (elements > 0)
    std::memcpy(&words, row + 2 * word, elements < 2 * kLanes<float> ? elements * 2 : ULMFIT_VECTOR_BYTES);
  return words;
#else
  return word < depth ? load(row + word, depth - word) : Vec<float>{};
#endif
}

// Column vector `v` of a panel from the rows of a matrix: lane l is row[l], or zero where it is null.
template <typename E>
static inline void pack_column_vector(const Panel<E>& panel, int v, const E* const* row) {
  constexpr int kCount = kLanes<E>;
  constexpr int64_t kElements = ULMFIT_VECTOR_BYTES / sizeof(Word<E>) * kGroup<E> / PanelFormat<E>::kWords;
  const int64_t words = panel_depth<E>(panel.depth), stride = panel.tile_width(v / kTileVectors) * kLanes<E>;
  bool whole = true;  // no lane is null
  for (int lane = 0; lane < kCount; ++lane) whole = whole && row[lane] != nullptr;
  Word<E>* to = panel.at(v, 0);
  Vec<Word<E>> block[kCount];
  int64_t word = 0;
  for (int64_t k = 0; whole && k + kElements <= panel.depth; k += kElements, word += kCount) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kCount; ++lane) {
      __builtin_prefetch(row[lane] + k + 8 * kElements, 0, 2);
      block[lane] = load_whole_words(row[lane] + k);
    }
    transpose(block);
#pragma GCC unroll 16
    for (int j = 0; j < kCount; ++j) store(to + (word + j) * stride, block[j]);
  }
  for (; word < words; word += kCount) {
    for (int lane = 0; lane < kCount; ++lane)
      block[lane] = row[lane] == nullptr ? Vec<Word<E>>{} : load_words(row[lane], word, panel.depth);
    transpose(block);
    for (int64_t j = 0; j < kCount && word + j < words; ++j) store(to + (word + j) * stride, block[j]);
  }
}

// weight^T in gate layout, units unit .. unit + lanes: vector v holds gate v. weight [4 * hidden, depth].
template <typename E>
static inline void pack_gate_panel(const Panel<E>& panel, const DroppedWeight<E>& weight, int64_t hidden,
                                   int64_t unit) {
  for (int gate = 0; gate < 4; ++gate) {
    const E* row[kLanes<E>];
    for (int lane = 0; lane < kLanes<E>; ++lane)
      row[lane] = unit + lane < hidden ? weight.row(gate * hidden + unit + lane, 0, panel.depth, lane) : nullptr;
    pack_column_vector(panel, gate, row);
  }
}

// weight^T for columns column .. of the product; weight [columns, depth].
template <typename E>
static inline void pack_transposed_panel(const Panel<E>& panel, const DroppedWeight<E>& weight, int64_t columns,
                                         int64_t column) {
  for (int v = 0; v < panel.width; ++v) {
    const E* row[kLanes<E>];
    for (int lane = 0; lane < kLanes<E>; ++lane) {
      const int64_t index = column + v * kLanes<E> + lane;
      row[lane] = index < columns ? weight.row(index, 0, panel.depth, lane) : nullptr;
    }
    pack_column_vector(panel, v, row);
  }
}

// Word vectors of group `group` of a panel from `count` columns of a matrix's rows (kGroup of them, null: zeros).
template <typename E>
static inline void pack_group(const Panel<E>& panel, int64_t group, const E* const* row, int64_t count) {
  for (int v = 0; v < panel.width; ++v) {
    const int64_t begin = v * kLanes<E>, rest = count - begin;
    if constexpr (kGroup<E> == 1) {
      store(panel.at(v, group), rest > 0 ? load(row[0] + begin, rest) : Vec<E>{});
    } else {
      Vec<float> element[2];
      for (int i = 0; i < 2; ++i)
        element[i] = row[i] != nullptr && rest > 0 ? load(row[i] + begin, rest) : Vec<float>{};
#if defined(ULMFIT_BFLOAT16_PAIRS)
      store(panel.at(v, group), bit_cast<WordVec>(element[0]) >> 16 | bit_cast<WordVec>(element[1]));
#else
      store(panel.at(v, 2 * group), element[0]);
      store(panel.at(v, 2 * group + 1), element[1]);
#endif
    }
  }
}

// Column vectors first .. last of a matrix, cut into panels as equal as possible. Those of the whole matrix lie one
// after the other at `words`, whoever packs them.
template <typename E>
struct PanelSet {
  Word<E>* words;
  int64_t depth, first, last;

  int64_t count() const { return (last - first + kPanelVectors - 1) / kPanelVectors; }
  int64_t vector(int64_t i) const { return first + (last - first) * i / count(); }
  int64_t column(int64_t i) const { return vector(i) * kLanes<E>; }
  int width(int64_t i) const { return static_cast<int>(vector(i + 1) - vector(i)); }
  Panel<E> panel(int64_t i) const { return {words + packed_words<E>(vector(i), depth), width(i), depth}; }
};

// Panels first .. last of the set from weight [depth, weight.columns]: the product sums over the weight's rows.
template <typename E>
static inline void pack_panels(const PanelSet<E>& set, int64_t first, int64_t last, const DroppedWeight<E>& weight) {
  if (first >= last) return;
  const int64_t begin = set.column(first), end = set.vector(last) * kLanes<E>;
  const int64_t count = (weight.columns < end ? weight.columns : end) - begin;
  for (int64_t group = 0; group < depth_groups<E>(set.depth); ++group) {
    const E* row[kGroup<E>];
    for (int64_t i = 0; i < kGroup<E>; ++i) {
      const int64_t k = group * kGroup<E> + i;
      row[i] = k < set.depth ? weight.row(k, begin, count, i) : nullptr;
    }
    for (int64_t p = first; p < last; ++p) {
      const int64_t offset = set.column(p) - begin;
      const E* at[kGroup<E>];
      for (int64_t i = 0; i < kGroup<E>; ++i) at[i] = row[i] == nullptr ? nullptr : row[i] + offset;
      pack_group(set.panel(p), group, at, count - offset);
    }
  }
}

// to[j] = low[j], high[j]; null: zeros.
static inline void pair_up(Bfloat16* to, const Bfloat16* low, const Bfloat16* high, int64_t count) {
  int64_t j = 0;
  for (; high != nullptr && j + kLanes<float> <= count; j += kLanes<float>)
    store(reinterpret_cast<uint32_t*>(to + 2 * j), interleave(low + j, high + j));
  for (; j < count; ++j) {
    to[2 * j] = low[j];
    to[2 * j + 1] = high != nullptr ? high[j] : Bfloat16{0};
  }
}

// A left operand turned round: columns of `rows` become the rows of tiles, kTileRows of them side by side,
// to[tile][group][row of the tile][element of the group]. Elements beyond the last row are zero.
template <typename E>
static inline void pack_tiles(E* to, const E* const* rows, int64_t row_count, int64_t count) {
  constexpr int64_t kTile = kTileRows * kGroup<E>, kRowsAhead = 6 * kGroup<E>;
  const int64_t groups = depth_groups<E>(row_count), whole = count / kTileRows, rest = count % kTileRows;
  for (int64_t group = 0; group < groups; ++group) {
    const E* from = rows[group * kGroup<E>];
    for (int64_t k = group * kGroup<E> + kRowsAhead; k < smaller((group + 1) * kGroup<E> + kRowsAhead, row_count); ++k)
      for (int64_t j = 0; j < count; j += Prefetch::kLine / sizeof(E)) __builtin_prefetch(rows[k] + j, 0, 3);
    E pairs[kGroup<E> == 1 ? 1 : kTileRows * kGroup<E> * 64];  // at most 64 tiles at a time
    for (int64_t tile = 0; tile < whole; ++tile) {
      if constexpr (kGroup<E> == 2) {
        if (tile % 64 == 0) {
          const int64_t first = tile * kTileRows,
                        last = first + 64 * kTileRows < count ? first + 64 * kTileRows : count;
          const E* next = group * 2 + 1 < row_count ? rows[group * 2 + 1] + first : nullptr;
          pair_up(pairs, rows[group * 2] + first, next, last - first);
          from = pairs - first * 2;
        }
      }
      std::memcpy(to + (tile * groups + group) * kTile, from + tile * kTile, kTile * sizeof(E));
    }
    for (int64_t r = 0; r < rest; ++r) {
      const int64_t column = whole * kTileRows + r;
      for (int64_t i = 0; i < kGroup<E>; ++i) {
        const int64_t k = group * kGroup<E> + i;
        to[(whole * groups + group) * kTile + r * kGroup<E> + i] = k < row_count ? rows[k][column] : E{};
      }
    }
  }
}

}  // namespace ulmfit_fast::ULMFIT_ISA
