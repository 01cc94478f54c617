// What the LSTM's forward and backward kernels share: where a row's neighbour in time is, which part of a step is
// whose.
#pragma once

#include "../gemm/pack.h"
#include "lstm_kernel.h"

namespace ulmfit_fast::ULMFIT_ISA {

// One slice of the grid.
struct Slice {
  Slice(const Grid& grid, int64_t slice_index)
      : index(slice_index),
        row_part(slice_index / grid.column_parts),
        column_part(slice_index % grid.column_parts),
        row_parts(grid.row_parts),
        column_parts(grid.column_parts) {}

  // Its share of `count` rows, whole tiles of them.
  Range rows(int64_t count) const {
    Range range((count + kTileRows - 1) / kTileRows, row_part, row_parts);
    range.first = smaller(range.first * kTileRows, count);
    range.last = smaller(range.last * kTileRows, count);
    return range;
  }
  Range step_rows(const LstmSizes& sizes, int64_t step) const { return rows(sizes.batch_sizes[sizes.step(step)]); }
  // Its share of `count` panels or column vectors. Slices that differ in rows alone have the same...
  Range columns(int64_t count) const { return Range(count, column_part, column_parts); }
  // ...and divide the packing of its panels first .. last among themselves.
  Range packing(int64_t first, int64_t last) const {
    Range range(last - first, row_part, row_parts);
    range.first += first;
    range.last += first;
    return range;
  }

  const int64_t index, row_part, column_part, row_parts, column_parts;
};

// The most rows of `count`, and the most of `count` columns, that a slice of the grid gets.
static inline int64_t most_rows(const Grid& grid, int64_t count) {
  const int64_t tiles = (count + kTileRows - 1) / kTileRows;
  return smaller((tiles + grid.row_parts - 1) / grid.row_parts * kTileRows, count);
}
static inline int64_t most_columns(const Grid& grid, int64_t count) {
  return (count + grid.column_parts - 1) / grid.column_parts;
}

constexpr int64_t kChunkRows = 512;  // rows whose projection a slice holds at a time; one step's at least

// The most rows of one chunk of a slice.
static inline int64_t most_chunk_rows(const LstmSizes& sizes, const Grid& grid) {
  return larger(smaller(kChunkRows, sizes.rows), most_rows(grid, sizes.batch));
}

// The steps whose inputs a slice holds projected.
class ChunkOfSteps {
 public:
  // Before the pieces of a step and after them.
  void begin_step(int64_t step, const LstmSizes& sizes, const Slice& slice, int64_t chunk_rows) {
    if (step >= end_) {
      int64_t count = 0;
      for (begin_ = end_; end_ < sizes.steps; ++end_) {
        count += slice.step_rows(sizes, end_).count();
        if (count > chunk_rows) break;
      }
      row_ = 0;
    }
    step_rows_ = slice.step_rows(sizes, step).count();
  }
  void end_step() { row_ += step_rows_; }

  bool begins(int64_t step) const { return step == begin_; }
  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  int64_t row() const { return row_; }  // where the step's rows stand in the chunk

 private:
  int64_t begin_ = 0, end_ = 0, row_ = 0, step_rows_ = 0;
};

// Rows of `step` (in order of computation) that were already running in the step before it.
static inline int64_t continuing_rows(const LstmSizes& sizes, int64_t step) {
  if (step == 0) return 0;
  return smaller(sizes.batch_sizes[sizes.step(step)], sizes.batch_sizes[sizes.step(step - 1)]);
}

// Rows of `step` from this one on are not in the step after it.
static inline int64_t first_ending_row(const LstmSizes& sizes, int64_t step) {
  return step + 1 < sizes.steps ? continuing_rows(sizes, step + 1) : 0;
}

// DropConnect's mask, of the recurrent weight.
static inline int64_t recurrent_elements(const LstmSizes& sizes) {
  return 4 * sizes.hidden * sizes.output;
}
static inline int64_t recurrent_mask_pieces(const LstmSizes& sizes, const DropConnect& dropconnect) {
  return dropconnect.enabled() ? MaskBits::pieces(recurrent_elements(sizes)) : 0;
}
static inline MaskBits recurrent_mask(const uint8_t* bits, const DropConnect& dropconnect) {
  return dropconnect.enabled() ? MaskBits{bits, dropconnect.scale()} : MaskBits();
}

// lstm_backward_kernel.cpp
template <typename E>
int64_t backward_scratch(const LstmBackward<E>& args);
template <typename E>
void backward(const LstmBackward<E>& args, Member member);

// lstm_pack_kernel.cpp
template <typename E>
int64_t packed_bytes(const LstmSizes& sizes);
template <typename E>
int64_t pack_scratch(const LstmPack<E>& args);
template <typename E>
void pack(const LstmPack<E>& args, Member member);

}  // namespace ulmfit_fast::ULMFIT_ISA
