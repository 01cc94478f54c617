// The weights' gradients: left^T [M, N] x right [N, columns] over all N rows of a batch, both operands row-major.
//
// Chunk after chunk of the N rows: the team packs the chunk's right rows, each slice then multiplies them into its own
// rows of the result, a block at a time whose left operand is turned round and stays in L2. The sums pass through the
// caches once a chunk, fetched ahead. No reduction crosses threads. Limit: FMA throughput.
#pragma once

#include "lstm_steps.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int64_t kBlockTiles = 48;    // of kTileRows rows of the result
constexpr int64_t kChunkGroups = 256;  // groups of the N rows packed at a time

// Memory that all slices use.
template <typename E>
struct ProductShared {
  Word<E>* right[2];          // a packed chunk, and the one after it
  Accumulator<E>* sums;       // [panels][left columns, whole tiles][panel's width * lanes]
  Accumulator<E>* left_sums;  // [left columns]
  const E** right_rows;       // [N]

  static int64_t right_words(int64_t columns) {
    return packed_words<E>(column_vectors<E>(columns), kChunkGroups * kGroup<E>);
  }
  static int64_t sum_count(int64_t left_columns, int64_t columns) {
    return (left_columns + kTileRows - 1) / kTileRows * kTileRows * column_vectors<E>(columns) * kLanes<E>;
  }
};

// A slice's own.
template <typename E>
struct ProductScratch {
  E* left;              // a block's chunk, in tiles
  const E** left_rows;  // [kChunkGroups * kGroup]
  const E** tile_rows;  // [kBlockTiles * kTileRows] into `left`
  Accumulator<E>* row;  // [columns]

  void carve(Carver& carver, int64_t columns) {
    constexpr int64_t kRows = kBlockTiles * kTileRows;
    left = carver.take<E>(kRows * kChunkGroups * kGroup<E>);
    left_rows = carver.take<const E*>(kChunkGroups * kGroup<E>);
    tile_rows = carver.take<const E*>(kRows);
    row = carver.take<Accumulator<E>>(column_vectors<E>(columns) * kLanes<E>);
  }
};

// to[first ..] = sums, in the gradient's own type.
template <typename E>
static inline void copy_sums(const WeightGradient<E>& to, int64_t first, const Accumulator<E>* sums, int64_t count) {
  for (int64_t j = 0; j < count; j += kLanes<E>) {
    const auto value = load(sums + j, count - j);
    if (to.own != nullptr)
      store(to.own + first + j, value, count - j);
    else
      store<Accumulator<E>>(to.master + first + j, value, count - j);
  }
}

template <typename E>
struct GradientProduct {
  using Acc = Accumulator<E>;

  const E* left;  // [rows, left_columns]
  int64_t rows, left_columns, right_columns;
  WeightGradient<E> gradient;   // [left_columns, right_columns]
  WeightGradient<E> left_sums;  // [left_columns], the bias's gradient, or null
  DropConnect dropconnect;      // applied to the gradient
  ProductShared<E> shared;
  ProductScratch<E> scratch;
  int64_t slice, slices;

  static constexpr int64_t kChunk = kChunkGroups * kGroup<E>;
  int64_t chunks() const { return (rows + kChunk - 1) / kChunk; }

  // This slice's panels of a chunk of the right operand.
  void pack_right(int64_t chunk) const {
    const PanelSet<E> set = panels();
    const Range own(set.count(), slice, slices);
    for (int64_t p = own.first; p < own.last; ++p) {
      const Panel<E> panel = chunk_panel(p, chunk);
      const int64_t first = chunk * kChunk, last = first + chunk_depth(chunk), column = set.column(p);
      for (int64_t n = first; n < last; n += kGroup<E>) {
        const E* row[kGroup<E>];
        for (int64_t i = 0; i < kGroup<E>; ++i) row[i] = n + i < last ? shared.right_rows[n + i] + column : nullptr;
        pack_group(panel, (n - first) / kGroup<E>, row, right_columns - column);
      }
    }
  }

  // This slice's rows of the result, a chunk on.
  void multiply_chunk(int64_t chunk) const {
    const Range own = tiles();
    for (int64_t tile = own.first; tile < own.last; tile += kBlockTiles) {
      const int64_t begin = tile * kTileRows;
      multiply_block(chunk, begin, smaller(smaller(tile + kBlockTiles, own.last) * kTileRows, left_columns) - begin);
    }
  }

  // When all chunks are in: this slice's rows of the gradient.
  void store_rows() const {
    const Range own = tiles();
    const PanelSet<E> set = panels();
    for (int64_t r = own.first * kTileRows; r < smaller(own.last * kTileRows, left_columns); ++r) {
      for (int64_t p = 0; p < set.count(); ++p) {
        const int width = set.width(p);
        store_tile<Acc>(scratch.row, right_columns, set.column(p), panel_sums(set, p) + r * width * kLanes<E>, 1,
                        width);
      }
      const int64_t first = r * right_columns;
      if (dropconnect.enabled()) drop(scratch.row, scratch.row, dropconnect, first, right_columns);
      copy_sums(gradient, first, scratch.row, right_columns);
    }
    if (!left_sums) return;
    const int64_t begin = own.first * kTileRows, end = smaller(own.last * kTileRows, left_columns);
    copy_sums(left_sums, begin, shared.left_sums + begin, end - begin);
  }

 private:
  Range tiles() const { return Range((left_columns + kTileRows - 1) / kTileRows, slice, slices); }
  PanelSet<E> panels() const { return {nullptr, 0, 0, column_vectors<E>(right_columns)}; }
  int64_t chunk_depth(int64_t chunk) const { return smaller(kChunk, rows - chunk * kChunk); }

  // Rows beyond the last fill its group with zeros: the depth counts whole groups.
  Panel<E> chunk_panel(int64_t p, int64_t chunk) const {
    PanelSet<E> set = panels();
    set.words = shared.right[chunk % 2];
    set.depth = depth_groups<E>(chunk_depth(chunk)) * kGroup<E>;
    return set.panel(p);
  }

  Acc* panel_sums(const PanelSet<E>& set, int64_t p) const {
    return shared.sums + set.column(p) * ((left_columns + kTileRows - 1) / kTileRows * kTileRows);
  }

  void multiply_block(int64_t chunk, int64_t begin, int64_t height) const {
    const int64_t depth = chunk_depth(chunk), groups = depth_groups<E>(depth);
    for (int64_t k = 0; k < depth; ++k) scratch.left_rows[k] = left + (chunk * kChunk + k) * left_columns + begin;
    pack_tiles(scratch.left, scratch.left_rows, depth, height);
    if (left_sums) add_left(chunk == 0, depth, begin, height);
    for (int64_t r = 0; r < height; ++r)
      scratch.tile_rows[r] = scratch.left + ((r / kTileRows) * groups * kTileRows + r % kTileRows) * kGroup<E>;
    const PanelSet<E> set = panels();
    for (int64_t p = 0; p < set.count(); ++p) {
      const Panel<E> panel = chunk_panel(p, chunk);
      const int64_t stride = panel.width * kLanes<E>;
      for (int64_t r = 0; r < height; r += kTileRows) {
        Acc* sums = panel_sums(set, p) + (begin + r) * stride;
        for (int64_t j = 0; j < kTileRows * stride; j += 64 / sizeof(Acc))
          __builtin_prefetch(sums + kTileRows * stride + j, 1, 2);
        multiply_panel<E>(sums, chunk == 0 ? zeros<E>() : Start<E>{sums, stride},
                          {scratch.tile_rows + r, smaller(kTileRows, height - r), kTileRows * kGroup<E>}, panel);
      }
    }
  }

  void add_left(bool first_chunk, int64_t depth, int64_t begin, int64_t height) const {
    Acc* sums = shared.left_sums + begin;
    if (first_chunk) std::memset(sums, 0, height * sizeof(Acc));
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = 0; j < height; j += kLanes<E>)
        store<Acc>(sums + j, load<Acc>(sums + j, height - j) + load(scratch.left_rows[k] + j, height - j), height - j);
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
