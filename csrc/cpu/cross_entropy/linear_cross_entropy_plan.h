// How the work of linear_cross_entropy is cut, and its memory.
#pragma once

#include "../gemm/pack.h"
#include "linear_cross_entropy_kernel.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int64_t kExponentialBytes = 64 << 20;  // of exponentials: sets how many rows a chunk has
constexpr int64_t kLogitRows = 96;               // rows of a panel whose logits pass through L2 at a time
constexpr int64_t kBlockRows = 252;              // rows whose gradients are made at a time, whole tiles
constexpr int64_t kClassesAtATime = 192;         // classes whose gradients are made at a time, whole panels

template <typename E>
constexpr int64_t kPanelColumns = kPanelVectors * kLanes<E>;

static inline int64_t parts_of(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// How the work is cut.
template <typename E>
struct CrossEntropyPlan {
  int64_t rows, panels, slabs, feature_vectors;
  int64_t chunks, chunk_rows;  // chunk_rows: whole tiles; the last chunk may have fewer rows
  int64_t blocks;              // of a chunk
  int64_t input_rows;          // of grad x that are one piece of work, whole tiles

  explicit CrossEntropyPlan(const LinearCrossEntropy<E>& a)
      : rows(a.rows),
        panels(parts_of(a.classes, kPanelColumns<E>)),
        slabs(parts_of(a.classes, kClassesAtATime)),
        feature_vectors(column_vectors<E>(a.features)) {
    const int64_t row_bytes = panels * kPanelColumns<E> * static_cast<int64_t>(sizeof(E));
    const int64_t most = larger(1, kExponentialBytes / (row_bytes * kBlockRows)) * kBlockRows;
    chunks = parts_of(a.rows, most);
    chunk_rows = parts_of(parts_of(a.rows, chunks), kTileRows) * kTileRows;
    blocks = parts_of(chunk_rows, kBlockRows);
    input_rows = piece_size(chunk_rows / kTileRows, a.slices, 8, kBlockRows / kTileRows, 2) * kTileRows;
  }

  int64_t rows_of(int64_t chunk) const { return smaller(chunk_rows, rows - chunk * chunk_rows); }
  int64_t input_blocks(int64_t chunk) const { return parts_of(rows_of(chunk), input_rows); }

  // Rows of the arrays that vectors of rows run over.
  int64_t padded_rows() const { return parts_of(chunk_rows, kLanes<E>) * kLanes<E> + kLanes<E>; }
  int64_t block_words() const { return packed_words<E>(feature_vectors, kBlockRows); }
  int64_t slab_words() const { return packed_words<E>(feature_vectors, kClassesAtATime); }
};

template <typename E>
struct CrossEntropyShared {
  using Acc = Accumulator<E>;
  E* kept;                     // [panels][chunk_rows][kPanelColumns] exp(l - largest)
  Acc *largest, *sum, *total;  // [panels][padded_rows] of a row of a panel: logit, sum of exponentials, sum of logits
  Acc *target, *normalizer;    // [padded_rows] logit of the target; log sum exp
  Acc *row_weight, *smoothing_share;  // [padded_rows] and its share of label smoothing for each class
  Acc* bias;                          // [panels * kPanelColumns], beyond the last class minus infinity
  Word<E>* input;                     // [blocks] right operands of grad W
  Word<E>* weight;                    // [slabs] right operands of grad x

  int64_t carve(const LinearCrossEntropy<E>& a, std::byte* at) {
    const CrossEntropyPlan<E> plan(a);
    const bool gradient = a.row_weight != nullptr;
    const int64_t rows = plan.padded_rows();
    Carver carver(at);
    kept = carver.take<E>(gradient ? plan.panels * plan.chunk_rows * kPanelColumns<E> : 0);
    for (Acc** array : {&largest, &sum, &total}) *array = carver.take<Acc>(plan.panels * rows);
    for (Acc** array : {&target, &normalizer, &row_weight, &smoothing_share}) *array = carver.take<Acc>(rows);
    bias = carver.take<Acc>(plan.panels * kPanelColumns<E>);
    input = carver.take<Word<E>>(a.grad_weight != nullptr ? plan.blocks * plan.block_words() : 0);
    weight = carver.take<Word<E>>(a.grad_input != nullptr ? plan.slabs * plan.slab_words() : 0);
    return carver.taken();
  }
};

// A slice's own.
template <typename E>
struct CrossEntropyScratch {
  using Acc = Accumulator<E>;
  static constexpr int64_t kRows = kBlockRows > kLogitRows ? kBlockRows : kLogitRows;
  Word<E>* panel;         // a panel of W^T
  E* converted;           // [lanes][E] rows of W, if they are not of type E
  Acc* tile;              // [kRows][kPanelColumns]
  const E** rows;         // [kRows]
  E* gradient;            // [kBlockRows][kClassesAtATime] of the logits
  int64_t* gradient_row;  // [kBlockRows] of the chunk that each is of
  Acc* factor;            // [kBlockRows + lanes]
  E* left;                // the same turned round, in tiles
  const E** left_rows;    // [kClassesAtATime]
  Word<E>* input;         // the right operand when some rows are left out
  Acc* grad_input;        // [feature panels][input_rows][its width]
  Acc* sums;              // [feature panels][kClassesAtATime][its width]
  Acc* bias_sums;         // [kClassesAtATime]

  int64_t carve(const LinearCrossEntropy<E>& a, std::byte* at) {
    const CrossEntropyPlan<E> plan(a);
    const int64_t tile_columns = parts_of(kClassesAtATime, kTileRows) * kTileRows;
    Carver carver(at);
    panel = carver.take<Word<E>>(packed_words<E>(kPanelVectors, a.features));
    converted = carver.take<E>(a.weight.own == nullptr ? larger(kLanes<E>, kGroup<E>) * a.features : 0);
    tile = carver.take<Acc>(kRows * kPanelColumns<E>);
    rows = carver.take<const E*>(kRows);
    gradient = carver.take<E>(kBlockRows * kClassesAtATime);
    gradient_row = carver.take<int64_t>(kBlockRows);
    factor = carver.take<Acc>(kBlockRows + kLanes<E>);
    left = carver.take<E>(tile_columns * depth_groups<E>(kBlockRows) * kGroup<E>);
    left_rows = carver.take<const E*>(tile_columns);
    input = carver.take<Word<E>>(a.threshold > 0 ? plan.block_words() : 0);
    grad_input = carver.take<Acc>(a.grad_input != nullptr ? plan.feature_vectors * kLanes<E> * plan.input_rows : 0);
    sums = carver.take<Acc>(plan.feature_vectors * kLanes<E> * tile_columns);
    bias_sums = carver.take<Acc>(kClassesAtATime);
    return carver.taken();
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
