// The weights' gradients: left^T [M, N] x right [N, columns] over all N rows of a batch, both operands row-major.
//
// Chunk after chunk of the N rows: the team packs the chunk's right rows, then multiplies them into rows of the result,
// a block at a time whose left operand is turned round and stays in L2. The sums pass through the caches once a chunk
// (twice in bfloat16 with AVX-512 but without its pairs, whose panels have two slabs),
// fetched ahead; they are the gradient's own memory where its type and its rows' length allow. No reduction crosses
// threads. Limit: FMA throughput.
#pragma once

#include <type_traits>

#include "lstm_steps.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int64_t kLeastBlockTiles = 8, kMostBlockTiles = 16;  // of kTileRows rows of the result
constexpr int64_t kChunkGroups = 640;                          // groups of the N rows packed at a time, at most

// Memory that all slices use.
template <typename E>
struct ProductShared {
  Word<E>* right[2];     // a packed chunk, and the one after it
  Accumulator<E>* sums;  // [panels][left columns, whole tiles][panel's width * lanes], see GradientProduct::own_sums
  Accumulator<E>* left_sums;  // [left columns]
  const E** right_rows;       // [N]

  static int64_t right_words(int64_t rows, int64_t columns) {
    return packed_words<E>(column_vectors<E>(columns), smaller(kChunkGroups, depth_groups<E>(rows)) * kGroup<E>);
  }
  static int64_t sum_count(int64_t left_columns, int64_t columns) {
    return (left_columns + kTileRows - 1) / kTileRows * kTileRows * column_vectors<E>(columns) * kLanes<E>;
  }
};

// A thread's.
template <typename E>
struct ProductScratch {
  static constexpr int64_t kRows = kMostBlockTiles * kTileRows;
  static constexpr int64_t kLines = kChunkGroups * kGroup<E> * Prefetch::most_lines<E>(kRows);

  E* left;              // a block's chunk, in tiles
  const E** left_rows;  // [kChunkGroups * kGroup]
  const E** tile_rows;  // [kRows] into `left`
  const void** lines;   // [kLines] of the next block's left operand
  Accumulator<E>* row;  // [columns]

  void carve(Carver& carver, int64_t columns) {
    left = carver.take<E>(kRows * kChunkGroups * kGroup<E>);
    left_rows = carver.take<const E*>(kChunkGroups * kGroup<E>);
    tile_rows = carver.take<const E*>(kRows);
    lines = carver.take<const void*>(kLines);
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
  MaskBits mask;                // applied to the gradient
  ProductShared<E> shared;
  ProductScratch<E> scratch;
  int64_t slice, slices;

  // As equal as possible: a short one would move the sums for little work.
  int64_t chunks() const { return (depth_groups<E>(rows) + kChunkGroups - 1) / kChunkGroups; }

  // This slice's panels of a chunk of the right operand.
  void pack_right(int64_t chunk) const {
    const PanelSet<E> set = panels();
    const Range own(set.count(), slice, slices);
    for (int64_t p = own.first; p < own.last; ++p) {
      const Panel<E> panel = chunk_panel(p, chunk);
      const int64_t first = chunk * chunk_rows(), last = first + chunk_depth(chunk), column = set.column(p);
      for (int64_t n = first; n < last; n += kGroup<E>) {
        const E* row[kGroup<E>];
        for (int64_t i = 0; i < kGroup<E>; ++i) row[i] = n + i < last ? shared.right_rows[n + i] + column : nullptr;
        pack_group(panel, (n - first) / kGroup<E>, row, right_columns - column);
      }
    }
  }

  // Pieces of work: blocks of rows of the result.
  int64_t blocks() const { return (tiles() + block_tiles() - 1) / block_tiles(); }

  // A block of the result, a chunk on. Meanwhile the left operand that this thread probably needs next is fetched.
  void multiply_block(int64_t chunk, int64_t index) const {
    const Block block(*this, chunk, index);
    const int64_t groups = depth_groups<E>(block.depth);
    for (int64_t k = 0; k < block.depth; ++k) scratch.left_rows[k] = left_row(block, k);
    pack_tiles(scratch.left, scratch.left_rows, block.depth, block.height);
    if (left_sums) add_left(block);
    for (int64_t r = 0; r < block.height; ++r)
      scratch.tile_rows[r] = scratch.left + ((r / kTileRows) * groups * kTileRows + r % kTileRows) * kGroup<E>;
    const Block next = index + slices < blocks() ? Block(*this, chunk, index + slices)
                                                 : Block(*this, slice < blocks() ? chunk + 1 : chunks(), slice);
    const PanelSet<E> set = panels();
    for (int64_t p = 0; p < set.count(); ++p) {
      Prefetch prefetch = {scratch.lines, scratch.kLines};
      const Range part(next.depth, p, set.count());
      for (int64_t k = part.first; k < part.last; ++k) prefetch.add(left_row(next, k), next.height);
      const Sums<E> sums = panel_sums(set, p, block.begin);
      multiply_panel<E>(sums, chunk == 0 ? zeros<E>() : sums, {scratch.tile_rows, block.height, true},
                        chunk_panel(p, chunk), prefetch);
    }
    if (chunk + 1 == chunks()) store_block(block);
  }

 private:
  // Rows begin .. begin + height of the result over N rows first .. first + depth; depth 0 beyond the last of them.
  struct Block {
    Block(const GradientProduct& product, int64_t chunk, int64_t index)
        : first(chunk * product.chunk_rows()),
          depth(larger(0, product.chunk_depth(chunk))),
          begin(index * product.block_tiles() * kTileRows),
          height(smaller(product.block_tiles() * kTileRows, product.left_columns - begin)) {}
    int64_t first, depth, begin, height;
  };

  // When all chunks are in: from the sums to the gradient.
  void store_block(const Block& block) const {
    const PanelSet<E> set = panels();
    Acc* own = own_sums();
    for (int64_t r = block.begin; r < block.begin + block.height; ++r) {
      const int64_t first = r * right_columns;
      if (own != nullptr) {
        if (mask) drop(own + first, own + first, mask, first, right_columns);
        continue;
      }
      for (int64_t p = 0; p < set.count(); ++p)
        store_tile<Acc>(scratch.row, right_columns, set.column(p), panel_sums(set, p, r).to, 1, set.width(p));
      if (mask) drop(scratch.row, scratch.row, mask, first, right_columns);
      copy_sums(gradient, first, scratch.row, right_columns);
    }
    if (left_sums) copy_sums(left_sums, block.begin, shared.left_sums + block.begin, block.height);
  }

  // The gradient, if sums can be made where it lies: it is of their type, and its rows are whole vectors. Else null.
  Acc* own_sums() const {
    if (right_columns % kLanes<E> != 0) return nullptr;
    if constexpr (std::is_same_v<E, Acc>)
      if (gradient.own != nullptr) return gradient.own;
    return gradient.master;
  }

  int64_t tiles() const { return (left_columns + kTileRows - 1) / kTileRows; }
  int64_t block_tiles() const { return piece_size(tiles(), slices, kLeastBlockTiles, kMostBlockTiles, 4); }
  PanelSet<E> panels() const { return {nullptr, 0, 0, column_vectors<E>(right_columns)}; }
  int64_t chunk_rows() const { return (depth_groups<E>(rows) + chunks() - 1) / chunks() * kGroup<E>; }
  int64_t chunk_depth(int64_t chunk) const { return smaller(chunk_rows(), rows - chunk * chunk_rows()); }

  // Rows beyond the last fill its group with zeros: the depth counts whole groups.
  Panel<E> chunk_panel(int64_t p, int64_t chunk) const {
    PanelSet<E> set = panels();
    set.words = shared.right[chunk % 2];
    set.depth = depth_groups<E>(chunk_depth(chunk)) * kGroup<E>;
    return set.panel(p);
  }

  // The result's rows from `row` on, columns of panel `p`.
  Sums<E> panel_sums(const PanelSet<E>& set, int64_t p, int64_t row) const {
    if (Acc* own = own_sums()) return {own + row * right_columns + set.column(p), right_columns};
    const int64_t width = set.width(p) * kLanes<E>;
    return {shared.sums + set.column(p) * (tiles() * kTileRows) + row * width, width};
  }

  const E* left_row(const Block& block, int64_t k) const {
    return left + (block.first + k) * left_columns + block.begin;
  }

  void add_left(const Block& block) const {
    constexpr int64_t kVectors = 3;  // at a time, in registers
    int64_t column = 0;
    for (; column + kVectors * kLanes<E> <= block.height; column += kVectors * kLanes<E>)
      add_columns<kVectors>(block, column, kLanes<E>);
    for (; column < block.height; column += kLanes<E>) add_columns<1>(block, column, block.height - column);
  }

  // `last`: lanes of the last vector.
  template <int Vectors>
  void add_columns(const Block& block, int64_t column, int64_t last) const {
    Acc* to = shared.left_sums + block.begin + column;
    const auto lanes = [&](int v) { return v + 1 < Vectors ? kLanes<E> : last; };
    Vec<E> sum[Vectors] = {};
    if (block.first > 0)
      for (int v = 0; v < Vectors; ++v) sum[v] = load<Acc>(to + v * kLanes<E>, lanes(v));
    for (int64_t k = 0; k < block.depth; ++k)
      for (int v = 0; v < Vectors; ++v) sum[v] += load(scratch.left_rows[k] + column + v * kLanes<E>, lanes(v));
    for (int v = 0; v < Vectors; ++v) store<Acc>(to + v * kLanes<E>, sum[v], lanes(v));
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
