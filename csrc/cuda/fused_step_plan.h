// Whether a step of the LSTM's recurrence is one launch, and in which tiles: plain functions of sizes, tested without a
// GPU. None of the numbers has been measured yet: they follow from what a block reads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast::cuda {

constexpr int kFusedThreads = 256;               // of a block: its warps share the depth of its product
constexpr int kFusedWarps = kFusedThreads / 32;  //
constexpr int kTileUnits = 8, kTileRows = 8;     // of a product of the tensor cores, which takes two gates at once
constexpr int kSlab = 32;                        // of the depth, that a warp loads at a time: 16 bytes a lane
constexpr int64_t kAtOnce = 8;                   // elements in 16 bytes
constexpr int kUnitTiles[] = {2, 1};             // of a block
constexpr int kRowTiles[] = {1, 2, 4};           //
constexpr int kFusedCapability = 80;             // the first with this product
constexpr int64_t kMostFusedRows = 128;          // beyond, each block's weights are read too often

// What decides whether a call's steps can be fused.
struct FusedCall {
  int64_t rows, hidden;  // rows: of the widest step
  bool half;             // elements of two bytes
  bool projected;        // h is a product of what the cell gives, which needs a launch of its own
  bool aligned;          // weights and first states begin at multiples of 16 bytes
  int capability;        // of the device, ten times the major version
};

constexpr bool can_fuse(const FusedCall& call) {
  return call.half && !call.projected && call.aligned && call.capability >= kFusedCapability &&
         call.hidden % kAtOnce == 0 && call.rows <= kMostFusedRows;
}

// A block owns unit_tiles * 8 units of row_tiles * 8 rows.
struct FusedTiles {
  int unit_tiles, row_tiles;

  constexpr int64_t unit_blocks(int64_t hidden) const {
    return (hidden + unit_tiles * kTileUnits - 1) / (unit_tiles * kTileUnits);
  }
  constexpr int64_t row_blocks(int64_t rows) const {
    return (rows + row_tiles * kTileRows - 1) / (row_tiles * kTileRows);
  }
  constexpr int64_t blocks(int64_t rows, int64_t hidden) const { return unit_blocks(hidden) * row_blocks(rows); }

  // Rows of `hidden` elements that the busiest of so many processors reads, those of the weight's four gates and of h.
  constexpr int64_t reads(int64_t rows, int64_t hidden, int processors) const {
    const int64_t of_block = 4 * unit_tiles * kTileUnits + std::min<int64_t>(rows, row_tiles * kTileRows);
    return (blocks(rows, hidden) + processors - 1) / processors * of_block;
  }
};

// Those of which the busiest processor reads least; of equal ones those with the fewest rows, then the most units.
constexpr FusedTiles fused_tiles(int64_t rows, int64_t hidden, int processors) {
  FusedTiles best{kUnitTiles[0], kRowTiles[0]};
  for (const int unit_tiles : kUnitTiles) {
    for (const int row_tiles : kRowTiles) {
      const FusedTiles tiles{unit_tiles, row_tiles};
      if (tiles.reads(rows, hidden, processors) < best.reads(rows, hidden, processors)) best = tiles;
    }
  }
  return best;
}

constexpr int kProductUnits = 64;  // of a block of backward's product: eight of each lane
constexpr int64_t kMostSplits = 16;

// A block of backward's product owns 64 units, row_tiles * 8 rows and one of `splits` ranges of the gates.
struct ProductTiles {
  int row_tiles, splits;

  constexpr int64_t blocks_of_gates(int64_t rows, int64_t hidden) const {
    return (hidden + kProductUnits - 1) / kProductUnits *
           ((rows + row_tiles * kTileRows - 1) / (row_tiles * kTileRows));
  }
  constexpr int64_t blocks(int64_t rows, int64_t hidden) const { return blocks_of_gates(rows, hidden) * splits; }

  // Elements that the busiest processor reads.
  constexpr int64_t reads(int64_t rows, int64_t hidden, int processors) const {
    const int64_t gates = (hidden / 8 + splits - 1) / splits * kSlab;
    const int64_t of_block = gates * (kProductUnits + std::min<int64_t>(rows, row_tiles * kTileRows));
    return (blocks(rows, hidden) + processors - 1) / processors * of_block;
  }
};

// Those of which the busiest processor reads least, with a slab of the gates for each warp at least; of equal ones
// those with the fewest rows. As many splits as the processors have room for: each costs the cell's kernel another
// read.
constexpr ProductTiles product_tiles(int64_t rows, int64_t hidden, int processors) {
  ProductTiles best{0, 0};
  for (const int row_tiles : kRowTiles) {
    const int64_t room = processors / ProductTiles{row_tiles, 1}.blocks_of_gates(rows, hidden);
    const int64_t most = std::min(kMostSplits, hidden / 8 / kFusedWarps);
    const ProductTiles tiles{row_tiles, static_cast<int>(std::max<int64_t>(1, std::min(room, most)))};
    if (best.splits == 0 || tiles.reads(rows, hidden, processors) < best.reads(rows, hidden, processors)) best = tiles;
  }
  return best;
}

}  // namespace ulmfit_fast::cuda
