// Matrices into the panels that panel_gemm.h multiplies by. Packing moves each word twice at the speed of memory.
#pragma once

#include "dropped_weight.h"
#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {

// Words word .. word + lanes of a row of `depth` elements; what lies beyond the row is zero.
template <typename T>
static inline Vec<T> load_words(const T* row, int64_t word, int64_t depth) {
  return word < depth ? load(row + word, depth - word) : Vec<T>{};
}

static inline Vec<Word<Bfloat16>> load_words(const Bfloat16* row, int64_t word, int64_t depth) {
#if defined(__AVX512BF16__)
  const int64_t elements = depth - 2 * word;
  WordVec words = {};
  if (elements > 0)
    std::memcpy(&words, row + 2 * word, elements < 2 * kLanes<float> ? elements * 2 : ULMFIT_VECTOR_BYTES);
  return words;
#else
  return word < depth ? load(row + word, depth - word) : Vec<float>{};
#endif
}

// Column vector `v` of a panel from the rows of a matrix: lane l is row(l), or zero where it is null.
template <typename E>
static inline void pack_column_vector(const Panel<E>& panel, int v, const E* const* row) {
  constexpr int kCount = kLanes<E>;
  const int64_t words = panel_depth<E>(panel.depth);
  for (int64_t word = 0; word < words; word += kCount) {
    Vec<Word<E>> block[kCount];
#pragma GCC unroll 16
    for (int lane = 0; lane < kCount; ++lane)
      block[lane] = row[lane] == nullptr ? Vec<Word<E>>{} : load_words(row[lane], word, panel.depth);
    transpose(block);
    const int64_t stride = panel.tile_width(v / kTileVectors) * kLanes<E>;
    Word<E>* to = panel.at(v, word);
    const int64_t count = words - word < kCount ? words - word : kCount;
    if (count == kCount) {
#pragma GCC unroll 16
      for (int j = 0; j < kCount; ++j) store(to + j * stride, block[j]);
    } else {
      for (int64_t j = 0; j < count; ++j) store(to + j * stride, block[j]);
    }
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
static inline void pack_transposed_panel(const Panel<E>& panel, const E* weight, int64_t columns, int64_t column) {
  for (int v = 0; v < panel.width; ++v) {
    const E* row[kLanes<E>];
    for (int lane = 0; lane < kLanes<E>; ++lane) {
      const int64_t index = column + v * kLanes<E> + lane;
      row[lane] = index < columns ? weight + index * panel.depth : nullptr;
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
#if defined(__AVX512BF16__)
      store(panel.at(v, group), bit_cast<WordVec>(element[0]) >> 16 | bit_cast<WordVec>(element[1]));
#else
      store(panel.at(v, 2 * group), element[0]);
      store(panel.at(v, 2 * group + 1), element[1]);
#endif
    }
  }
}

// Column vectors first .. last of a matrix, cut into panels as equal as possible. Those of the whole matrix lie one after
// the other at `words`, whoever packs them.
template <typename E>
struct PanelSet {
  Word<E>* words;
  int64_t depth, first, last;

  int64_t count() const { return (last - first + kPanelVectors - 1) / kPanelVectors; }
  int64_t vector(int64_t i) const { return first + (last - first) * i / count(); }
  int64_t column(int64_t i) const { return vector(i) * kLanes<E>; }
  Panel<E> panel(int64_t i) const {
    return {words + packed_words<E>(vector(i), depth), static_cast<int>(vector(i + 1) - vector(i)), depth};
  }
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

// A left operand turned round: to[group][column][i] = rows[group * kGroup + i][column], `count` columns of `rows` rows.
template <typename E>
static inline void pack_columns(E* to, const E* const* rows, int64_t row_count, int64_t count) {
  for (int64_t group = 0; group < depth_groups<E>(row_count); ++group, to += count * kGroup<E>) {
    const E* row = rows[group * kGroup<E>];
    if constexpr (kGroup<E> == 1) {
      std::memcpy(to, row, count * sizeof(E));
    } else {
      const E* next = group * 2 + 1 < row_count ? rows[group * 2 + 1] : nullptr;
      int64_t j = 0;
      for (; j + kLanes<E> <= count && next != nullptr; j += kLanes<E>)
        store(reinterpret_cast<uint32_t*>(to + 2 * j), interleave(row + j, next + j));
      for (; j < count; ++j) {
        to[2 * j] = row[j];
        to[2 * j + 1] = next != nullptr ? next[j] : Bfloat16{0};
      }
    }
  }
}

}  // namespace ulmfit_fast::ULMFIT_ISA
