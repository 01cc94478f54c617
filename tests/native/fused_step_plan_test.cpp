// A step is fused only where it can be; tiles cover every unit and row, and leave no processor with more to read than
// other tiles would.
#include "../../csrc/cuda/fused_step_plan.h"

#include "checks.h"

namespace ulmfit_fast {
namespace {

using cuda::FusedCall;
using cuda::FusedTiles;

constexpr FusedCall kCall{
    .rows = 64, .hidden = 1152, .half = true, .projected = false, .aligned = true, .capability = 90};

constexpr FusedCall changed(const auto& change) {
  FusedCall call = kCall;
  change(call);
  return call;
}

static_assert(cuda::can_fuse(kCall));
static_assert(cuda::can_fuse(changed([](FusedCall& c) { c.hidden = 400; })));
static_assert(cuda::can_fuse(changed([](FusedCall& c) { c.rows = 1; })));
static_assert(cuda::can_fuse(changed([](FusedCall& c) { c.capability = 80; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.capability = 75; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.hidden = 1150; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.rows = cuda::kMostFusedRows + 1; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.half = false; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.projected = true; })));
static_assert(!cuda::can_fuse(changed([](FusedCall& c) { c.aligned = false; })));

constexpr int64_t kMostShared = 48 << 10;  // bytes that a block may have without asking for more
constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;

void require(bool holds, const char* what, int64_t rows, int64_t hidden, int processors) {
  if (holds) return;
  std::fprintf(stderr, "fused step: %s does not hold for %ld rows of %ld units on %d processors\n", what,
               static_cast<long>(rows), static_cast<long>(hidden), processors);
  std::exit(1);
}

// What the busiest processor reads, block after block.
int64_t counted(FusedTiles tiles, int64_t rows, int64_t hidden, int processors) {
  int64_t blocks = 0;
  for (int64_t unit = 0; unit < hidden; unit += tiles.unit_tiles * 8)
    for (int64_t row = 0; row < rows; row += tiles.row_tiles * 8) ++blocks;
  int64_t of_busiest = 0;
  for (int64_t block = 0; block < blocks; block += processors) ++of_busiest;
  return of_busiest * (tiles.unit_tiles * 32 + std::min<int64_t>(rows, tiles.row_tiles * 8));
}

}  // namespace

void check_fused_step_plan() {
  for (const int processors : {1, 82, 108, 132}) {
    for (const int64_t hidden : {8, 16, 24, 400, 1152, 4096}) {
      for (int64_t rows = 1; rows <= cuda::kMostFusedRows; ++rows) {
        const FusedTiles tiles = cuda::fused_tiles(rows, hidden, processors);
        const auto hold = [&](bool holds, const char* what) { require(holds, what, rows, hidden, processors); };
        hold(tiles.unit_blocks(hidden) * tiles.unit_tiles * 8 >= hidden, "a block for each unit");
        hold((tiles.unit_blocks(hidden) - 1) * tiles.unit_tiles * 8 < hidden, "no block without units");
        hold(tiles.row_blocks(rows) * tiles.row_tiles * 8 >= rows, "a block for each row");
        hold((tiles.row_blocks(rows) - 1) * tiles.row_tiles * 8 < rows, "no block without rows");
        hold(tiles.blocks(rows, hidden) <= kMostBlocks, "a grid that a GPU accepts");
        const int64_t row_bytes = (tiles.unit_tiles * 8 + 4) * 4;
        hold(cuda::kFusedWarps / 2 * 4 * tiles.row_tiles * 8 * row_bytes <= kMostShared, "room for partial sums");
        hold(tiles.reads(rows, hidden, processors) == counted(tiles, rows, hidden, processors), "what it reads");
        for (const int unit_tiles : {1, 2})
          for (const int row_tiles : {1, 2, 4})
            hold(counted(tiles, rows, hidden, processors) <= counted({unit_tiles, row_tiles}, rows, hidden, processors),
                 "no other tiles with less to read");
      }
    }
  }
  for (const int processors : {1, 82, 108, 132}) {
    for (const int64_t hidden : {8, 16, 64, 72, 400, 1152, 4096}) {
      for (int64_t rows = 1; rows <= cuda::kMostFusedRows; ++rows) {
        const cuda::ProductTiles tiles = cuda::product_tiles(rows, hidden, processors);
        const auto hold = [&](bool holds, const char* what) { require(holds, what, rows, hidden, processors); };
        const int64_t units = (hidden + 63) / 64, row_blocks = (rows + tiles.row_tiles * 8 - 1) / (tiles.row_tiles * 8);
        hold(tiles.splits >= 1 && tiles.splits <= cuda::kMostSplits, "a range of the gates");
        hold(tiles.splits == 1 || hidden / 8 / tiles.splits >= cuda::kFusedWarps, "a slab for each warp");
        hold(tiles.blocks(rows, hidden) == units * row_blocks * tiles.splits, "blocks of backward's product");
        hold(tiles.splits == 1 || tiles.blocks(rows, hidden) <= processors, "no split that waits");
        hold(cuda::kFusedWarps / 2 * tiles.row_tiles * 8 * 65 * 4 <= kMostShared, "room for the product's sums");
      }
    }
  }
  const auto is = [](FusedTiles tiles, int unit_tiles, int row_tiles) {
    return tiles.unit_tiles == unit_tiles && tiles.row_tiles == row_tiles;
  };
  require(is(cuda::fused_tiles(1, 1152, 132), 2, 1), "one row in 72 blocks, not 144 of which some wait", 1, 1152, 132);
  require(is(cuda::fused_tiles(64, 1152, 132), 2, 4), "two blocks of rows", 64, 1152, 132);
  require(is(cuda::fused_tiles(16, 64, 132), 1, 1), "as many blocks as there are", 16, 64, 132);
  const cuda::ProductTiles product = cuda::product_tiles(64, 1152, 132);
  require(product.row_tiles == 4 && product.splits == 3, "36 blocks of three ranges each", 64, 1152, 132);
}

}  // namespace ulmfit_fast
