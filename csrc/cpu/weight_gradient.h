// The weights' gradients: left^T [M, N] x right [N, columns] over all N rows of a batch, both operands row-major.
//
// Cut into blocks of the result that stay in L2 while both operands stream past: a chunk of rows is packed, the left
// operand turned round, and multiplied in. One slice computes a block from first to last row: no reduction crosses
// threads. Limit: FMA throughput; packing and re-reading the sums cost a few percent.
#pragma once

#include "lstm_steps.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int64_t kBlockRows = 192;     // of the result (the left operand's columns)
constexpr int64_t kBlockVectors = 16;   // of the result's columns
constexpr int64_t kBlockDepth = 256;    // groups of batch rows packed at a time

template <typename E>
struct BlockScratch {
  using Acc = Accumulator<E>;
  Acc* sums;             // [panels of a block][kBlockRows][panel's width * lanes]
  Acc* row_sums;         // [kBlockRows] sums of the left operand's columns
  E* left;               // [kBlockDepth][kBlockRows][kGroup]
  Word<E>* right;        // a packed chunk of the block's columns
  const E** left_rows;   // [kBlockDepth * kGroup]
  const E** right_rows;  // as many
  const E** turned;      // [kBlockRows] into `left`
  E* row;                // [kBlockVectors * lanes]

  int64_t carve(std::byte* at) {
    constexpr int64_t kElements = kBlockDepth * kGroup<E>;
    Carver carver(at);
    sums = carver.take<Acc>(kBlockRows * kBlockVectors * kLanes<E>);
    row_sums = carver.take<Acc>(kBlockRows);
    left = carver.take<E>(kElements * kBlockRows);
    right = carver.take<Word<E>>(packed_words<E>(kBlockVectors, kElements));
    left_rows = carver.take<const E*>(kElements);
    right_rows = carver.take<const E*>(kElements);
    turned = carver.take<const E*>(kBlockRows);
    row = carver.take<E>(kBlockVectors * kLanes<E>);
    return carver.taken();
  }
};

// What is multiplied. `right_row(n)` is the right operand's row n.
template <typename E, typename RightRow>
struct GradientProduct {
  const E* left;  // [rows, left_columns]
  int64_t rows, left_columns, right_columns;
  RightRow right_row;
  E* gradient;             // [left_columns, right_columns]
  E* left_sums;            // [left_columns], the bias's gradient, or null
  DropConnect dropconnect;  // applied to the gradient

  int64_t row_blocks() const { return (left_columns + kBlockRows - 1) / kBlockRows; }
  int64_t column_blocks() const { return (column_vectors<E>(right_columns) + kBlockVectors - 1) / kBlockVectors; }
  int64_t blocks() const { return row_blocks() * column_blocks(); }

  void compute(int64_t block, const BlockScratch<E>& scratch) const {
    using Acc = Accumulator<E>;
    const Range tiles((left_columns + kTileRows - 1) / kTileRows, block / column_blocks(), row_blocks());
    const int64_t begin = tiles.first * kTileRows, height = smaller(tiles.last * kTileRows, left_columns) - begin;
    const Range vectors(column_vectors<E>(right_columns), block % column_blocks(), column_blocks());
    const bool with_sums = left_sums != nullptr && block % column_blocks() == 0;
    for (int64_t r = 0; r < height; ++r) {
      scratch.turned[r] = scratch.left + r * kGroup<E>;
      scratch.row_sums[r] = 0;
    }
    const int64_t column = vectors.first * kLanes<E>;
    for (int64_t n = 0; n < rows; n += kBlockDepth * kGroup<E>) {
      const int64_t depth = smaller(kBlockDepth * kGroup<E>, rows - n);
      for (int64_t k = 0; k < depth; ++k) {
        scratch.left_rows[k] = left + (n + k) * left_columns + begin;
        scratch.right_rows[k] = right_row(n + k) + column;
      }
      pack_columns(scratch.left, scratch.left_rows, depth, height);
      if (with_sums) add_rows(scratch.row_sums, scratch.left_rows, depth, height);
      const PanelSet<E> set = chunk_panels(vectors, depth, scratch);
      pack_rows(set, scratch.right_rows, depth, right_columns - column);
      for (int64_t p = 0; p < set.count(); ++p) {
        const Panel<E> panel = set.panel(p);
        Acc* sums = scratch.sums + set.column(p) * kBlockRows;
        const Start<E> start = n == 0 ? zeros<E>() : Start<E>{sums, panel.width * kLanes<E>};
        multiply_panel<E>(sums, start, {scratch.turned, height, height * kGroup<E>}, panel);
      }
    }
    store_block(begin, height, vectors, scratch);
    for (int64_t r = 0; with_sums && r < height; r += kLanes<E>)
      store(left_sums + begin + r, load(scratch.row_sums + r, height - r), height - r);
  }

 private:
  // Rows beyond the chunk's last pad its last group with zeros: depth counts whole groups.
  static PanelSet<E> chunk_panels(const Range& vectors, int64_t depth, const BlockScratch<E>& scratch) {
    return {scratch.right, depth_groups<E>(depth) * kGroup<E>, 0, vectors.count()};
  }

  static void pack_rows(const PanelSet<E>& set, const E* const* row, int64_t depth, int64_t count) {
    for (int64_t group = 0; group < depth_groups<E>(depth); ++group) {
      for (int64_t p = 0; p < set.count(); ++p) {
        const E* at[kGroup<E>];
        for (int64_t i = 0; i < kGroup<E>; ++i) {
          const int64_t k = group * kGroup<E> + i;
          at[i] = k < depth ? row[k] + set.column(p) : nullptr;
        }
        pack_group(set.panel(p), group, at, count - set.column(p));
      }
    }
  }

  static void add_rows(Accumulator<E>* sums, const E* const* row, int64_t depth, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes<E>) {
      Vec<E> sum = load(sums + j, count - j);
      for (int64_t k = 0; k < depth; ++k) sum += load(row[k] + j, count - j);
      store(sums + j, sum, count - j);
    }
  }

  void store_block(int64_t begin, int64_t height, const Range& vectors, const BlockScratch<E>& scratch) const {
    const int64_t column = vectors.first * kLanes<E>;
    const int64_t count = smaller(right_columns, vectors.last * kLanes<E>) - column;
    const PanelSet<E> set = chunk_panels(vectors, 1, scratch);
    for (int64_t r = 0; r < height; ++r) {
      for (int64_t p = 0; p < set.count(); ++p) {
        const int width = set.panel(p).width;
        const Accumulator<E>* sums = scratch.sums + set.column(p) * kBlockRows + r * width * kLanes<E>;
        store_tile(scratch.row, kBlockVectors * kLanes<E>, set.column(p), sums, 1, width);
      }
      const int64_t first = (begin + r) * right_columns + column;
      if (dropconnect.enabled())
        drop(gradient + first, scratch.row, dropconnect, first, count);
      else
        std::memcpy(gradient + first, scratch.row, count * sizeof(E));
    }
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
