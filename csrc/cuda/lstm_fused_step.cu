// h_{t-1} (M o W_hh)^T / (1-p), and the cell, in one launch a step: a block owns 8 or 16 units with all their gates,
// and 8 to 32 rows. Its warps share the depth of the product. Each loads its part of the weight, 16 bytes a lane,
// straight from memory into the registers that the tensor cores take, clears what the mask drops on the way, and adds
// up in float32; then the partial sums meet in shared memory, in a fixed order, and each thread computes cells. Limit:
// what blocks read of W_hh and h, from L2. Deterministic.
#include "cell.cuh"
#include "keep_bits.cuh"
#include "launch.cuh"
#include "lstm_fused_step.h"
#include "tensor_core.cuh"

namespace ulmfit_fast::cuda {
namespace {

__global__ void keep_bits_kernel(uint8_t* keep, const int64_t* seed, int64_t seed_value, uint64_t threshold,
                                 int64_t bytes) {
  const int64_t index = thread_index();
  if (index >= bytes) return;
  const auto key = static_cast<uint64_t>(seed != nullptr ? *seed : seed_value);
  keep[index] = static_cast<uint8_t>(keep_bits_of_eight(key, index, threshold));
}

// What a lane holds of a slab of the depth.
template <int unit_tiles, int row_tiles>
struct Operands {
  Eight weight[unit_tiles][4];   // of one unit of each tile, its gates
  uint32_t keep[unit_tiles][4];  // bits of these eight: cleared once they have arrived
  Eight state[row_tiles];        // of one row of each tile
};

// One of a thread's units.
struct Cell {
  int column, row;  // in the block
  int64_t r, unit;  // in the step
  bool exists;
};

template <typename E, int unit_tiles, int row_tiles>
__global__ void __launch_bounds__(kFusedThreads)
    fused_forward_step_kernel(const __grid_constant__ FusedForwardStep<E> a) {
  constexpr int kUnits = unit_tiles * kTileUnits, kRows = row_tiles * kTileRows;
  constexpr int kParts = kFusedWarps / 2;  // partial sums in shared memory
  constexpr int kStride = kUnits + 4;      // between rows: lanes of a warp then write to different banks
  __shared__ float parts[kParts][4][kRows][kStride];

  const int64_t hidden = a.cell.hidden;
  const auto unit_blocks = static_cast<unsigned>((hidden + kUnits - 1) / kUnits);
  const int64_t first_unit = int64_t{blockIdx.x % unit_blocks} * kUnits;
  const int64_t first_row = int64_t{blockIdx.x / unit_blocks} * kRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
  const int64_t slabs = (hidden + kSlab - 1) / kSlab, last = slabs * (warp + 1) / kFusedWarps;

  const E* rows[row_tiles];  // of h_{t-1}
  for (int tile = 0; tile < row_tiles; ++tile) {
    const int64_t r = first_row + tile * kTileRows + group;
    const bool continues = r < a.continuing;
    rows[tile] =
        r >= a.cell.rows ? nullptr : (continues ? a.cell.output + (a.previous_row + r) * hidden : a.h0 + r * hidden);
  }
  const auto operands_of = [&](int64_t slab) {
    Operands<unit_tiles, row_tiles> loaded{};
    const int64_t column = slab * kSlab + place * kAtOnce;
    if (slab >= last || column >= hidden) return loaded;
    for (int tile = 0; tile < unit_tiles; ++tile) {
      const int64_t unit = first_unit + tile * kTileUnits + group;
      if (unit >= hidden) continue;
      for (int gate = 0; gate < 4; ++gate) {
        const int64_t at = (gate * hidden + unit) * hidden + column;
        loaded.weight[tile][gate] = load_eight(a.weight + at);
        if (a.keep != nullptr) loaded.keep[tile][gate] = a.keep[at / kAtOnce];
      }
    }
    for (int tile = 0; tile < row_tiles; ++tile)
      if (rows[tile] != nullptr) loaded.state[tile] = load_eight(rows[tile] + column);
    return loaded;
  };

  // What this thread's cells take arrives while the product is computed.
  constexpr int kCells = (kUnits * kRows + kFusedThreads - 1) / kFusedThreads;
  const auto cell_of = [&](int number) {
    const int index = number * kFusedThreads + threadIdx.x;
    const int64_t r = first_row + index / kUnits, unit = first_unit + index % kUnits;
    return Cell{index % kUnits, index / kUnits, r, unit, index < kUnits * kRows && r < a.cell.rows && unit < hidden};
  };
  CellInputs<float> inputs[kCells] = {};
  for (int number = 0; number < kCells; ++number) {
    const Cell cell = cell_of(number);
    if (cell.exists) inputs[number] = cell_inputs(a.cell, cell.r, cell.unit);
  }

  float sums[unit_tiles][2][row_tiles][4] = {};  // of gates i and f, of g and o
  int64_t slab = slabs * warp / kFusedWarps;
  for (auto operands = operands_of(slab); slab < last; ++slab) {
    const auto following = operands_of(slab + 1);  // on its way while these are multiplied
    if (a.keep != nullptr)
      for (int tile = 0; tile < unit_tiles; ++tile)
        for (int gate = 0; gate < 4; ++gate) clear_dropped(operands.weight[tile][gate], operands.keep[tile][gate]);
    for (int half = 0; half < 2; ++half) {
      for (int row_tile = 0; row_tile < row_tiles; ++row_tile) {
        const uint32_t* state = operands.state[row_tile].pairs + 2 * half;
        const uint32_t b[2] = {state[0], state[1]};
        for (int tile = 0; tile < unit_tiles; ++tile) {
          for (int both = 0; both < 2; ++both) {
            const uint32_t* one = operands.weight[tile][2 * both].pairs + 2 * half;
            const uint32_t* other = operands.weight[tile][2 * both + 1].pairs + 2 * half;
            const uint32_t w[4] = {one[0], other[0], one[1], other[1]};
            multiply_add<E>(sums[tile][both][row_tile], w, b);
          }
        }
      }
    }
    operands = following;
  }

  // The upper half of the warps leaves its sums; the lower half adds its own.
  const auto for_sums = [&](const auto& work) {
    for (int tile = 0; tile < unit_tiles; ++tile)
      for (int both = 0; both < 2; ++both)
        for (int row_tile = 0; row_tile < row_tiles; ++row_tile)
          for (int i = 0; i < 4; ++i)
            work(parts[warp % kParts][2 * both + i / 2][row_tile * kTileRows + 2 * place + i % 2]
                      [tile * kTileUnits + group],
                 sums[tile][both][row_tile][i]);
  };
  if (warp >= kParts) for_sums([](float& part, float sum) { part = sum; });
  __syncthreads();
  if (warp < kParts) for_sums([](float& part, float sum) { part += sum; });
  __syncthreads();
  for (int number = 0; number < kCells; ++number) {
    const Cell cell = cell_of(number);
    if (!cell.exists) continue;
    float from_state[4];
    for (int gate = 0; gate < 4; ++gate) {
      float sum = 0;
      for (int part = 0; part < kParts; ++part) sum += parts[part][gate][cell.row][cell.column];
      from_state[gate] = sum * a.scale;
    }
    forward_cell(a.cell, cell.r, cell.unit, inputs[number], from_state);
  }
}

}  // namespace

void draw_keep_bits(cudaStream_t stream, uint8_t* keep, const int64_t* seed, int64_t seed_value, uint64_t threshold,
                    int64_t weights) {
  launch(stream, keep_bits_kernel, weights / 8, keep, seed, seed_value, threshold, weights / 8);
}

template <typename E>
void fused_forward_step(cudaStream_t stream, const FusedForwardStep<E>& step, FusedTiles tiles) {
  const int64_t blocks = tiles.blocks(step.cell.rows, step.cell.hidden);
  const auto launch_with = [&]<int unit_tiles>() {
    switch (tiles.row_tiles) {
      case 1:
        return launch_blocks(stream, fused_forward_step_kernel<E, unit_tiles, 1>, blocks, kFusedThreads, step);
      case 2:
        return launch_blocks(stream, fused_forward_step_kernel<E, unit_tiles, 2>, blocks, kFusedThreads, step);
      default:
        return launch_blocks(stream, fused_forward_step_kernel<E, unit_tiles, 4>, blocks, kFusedThreads, step);
    }
  };
  tiles.unit_tiles == 1 ? launch_with.template operator()<1>() : launch_with.template operator()<2>();
}

template void fused_forward_step(cudaStream_t, const FusedForwardStep<c10::BFloat16>&, FusedTiles);
template void fused_forward_step(cudaStream_t, const FusedForwardStep<c10::Half>&, FusedTiles);

}  // namespace ulmfit_fast::cuda
