// grad a_{t+1} (M o W_hh): what flows back into h, as partial sums over the gates that the cell's kernel adds up. A
// block owns 64 units of 8 to 32 rows and a range of the 4H gates, which its warps share. A lane loads eight units of
// each of eight gates, 16 bytes at a time; clears what the mask drops; and puts pairs of gates together, as the tensor
// cores take them. Limit: what blocks read of W_hh, from L2. Deterministic: every sum is in a fixed order.
#include "launch.cuh"
#include "lstm_fused_product.h"
#include "tensor_core.cuh"

namespace ulmfit_fast::cuda {
namespace {

// What a lane holds of a slab of 32 gates: eight of them.
template <int row_tiles>
struct Operands {
  Eight weight[8];         // of each gate eight units
  uint32_t keep[8];        // their bits
  Eight gates[row_tiles];  // the gates of one row of each tile
};

template <typename E, int row_tiles>
__global__ void __launch_bounds__(kFusedThreads) fused_product_kernel(const __grid_constant__ FusedProduct<E> a) {
  constexpr int kRows = row_tiles * kTileRows, kParts = kFusedWarps / 2, kPairs = 4;
  __shared__ float parts[kParts][kRows][kProductUnits + 1];

  const int64_t hidden = a.hidden;
  const auto unit_blocks = static_cast<unsigned>((hidden + kProductUnits - 1) / kProductUnits);
  const auto row_blocks = static_cast<unsigned>((a.rows + kRows - 1) / kRows);
  const int64_t first_unit = int64_t{blockIdx.x % unit_blocks} * kProductUnits;
  const int64_t first_row = int64_t{blockIdx.x / unit_blocks % row_blocks} * kRows;
  const int64_t split = blockIdx.x / (unit_blocks * row_blocks);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
  const int64_t slabs = 4 * hidden / kSlab, begin = slabs * split / a.splits;
  const int64_t of_block = slabs * (split + 1) / a.splits - begin;
  const int64_t last = begin + of_block * (warp + 1) / kFusedWarps;
  const int64_t unit = first_unit + group * kAtOnce;

  const auto operands_of = [&](int64_t slab) {
    Operands<row_tiles> loaded{};
    if (slab >= last) return loaded;
    const int64_t gate = slab * kSlab + place * kAtOnce;
    if (unit < hidden) {
      for (int i = 0; i < 8; ++i) {
        const int64_t at = (gate + i) * hidden + unit;
        loaded.weight[i] = load_eight(a.weight + at);
        if (a.keep != nullptr) loaded.keep[i] = a.keep[at / kAtOnce];
      }
    }
    for (int tile = 0; tile < row_tiles; ++tile) {
      const int64_t r = first_row + tile * kTileRows + group;
      if (r < a.rows) loaded.gates[tile] = load_eight(a.gates + r * 4 * hidden + gate);
    }
    return loaded;
  };

  float sums[kPairs][row_tiles][4] = {};  // of each pair of the eight units
  int64_t slab = begin + of_block * warp / kFusedWarps;
  for (auto operands = operands_of(slab); slab < last; ++slab) {
    const auto following = operands_of(slab + 1);  // on its way while these are multiplied
    if (a.keep != nullptr)
      for (int i = 0; i < 8; ++i) clear_dropped(operands.weight[i], operands.keep[i]);
    for (int half = 0; half < 2; ++half) {
      for (int pair = 0; pair < kPairs; ++pair) {
        uint32_t w[4];  // of both units two pairs of gates
        for (int i = 0; i < 2; ++i) {
          const uint32_t one = operands.weight[4 * half + 2 * i].pairs[pair];
          const uint32_t other = operands.weight[4 * half + 2 * i + 1].pairs[pair];
          w[2 * i] = (one & 0xFFFFu) | other << 16;
          w[2 * i + 1] = one >> 16 | (other & 0xFFFF0000u);
        }
        for (int tile = 0; tile < row_tiles; ++tile) {
          const uint32_t* gates = operands.gates[tile].pairs + 2 * half;
          const uint32_t b[2] = {gates[0], gates[1]};
          multiply_add<E>(sums[pair][tile], w, b);
        }
      }
    }
    operands = following;
  }

  // The upper half of the warps leaves its sums; the lower half adds its own.
  const auto for_sums = [&](const auto& work) {
    for (int pair = 0; pair < kPairs; ++pair)
      for (int tile = 0; tile < row_tiles; ++tile)
        for (int i = 0; i < 4; ++i)
          work(parts[warp % kParts][tile * kTileRows + 2 * place + i % 2][group * 8 + 2 * pair + i / 2],
               sums[pair][tile][i]);
  };
  if (warp >= kParts) for_sums([](float& part, float sum) { part = sum; });
  __syncthreads();
  if (warp < kParts) for_sums([](float& part, float sum) { part += sum; });
  __syncthreads();
  for (int index = threadIdx.x; index < kRows * kProductUnits; index += kFusedThreads) {
    const int row = index / kProductUnits, column = index % kProductUnits;
    if (first_row + row >= a.rows || first_unit + column >= hidden) continue;
    float sum = 0;
    for (int part = 0; part < kParts; ++part) sum += parts[part][row][column];
    a.parts[(split * a.rows + first_row + row) * hidden + first_unit + column] = sum;
  }
}

}  // namespace

template <typename E>
void fused_product(cudaStream_t stream, const FusedProduct<E>& product, int row_tiles) {
  const int64_t blocks = ProductTiles{row_tiles, product.splits}.blocks(product.rows, product.hidden);
  switch (row_tiles) {
    case 1:
      return launch_blocks(stream, fused_product_kernel<E, 1>, blocks, kFusedThreads, product);
    case 2:
      return launch_blocks(stream, fused_product_kernel<E, 2>, blocks, kFusedThreads, product);
    default:
      return launch_blocks(stream, fused_product_kernel<E, 4>, blocks, kFusedThreads, product);
  }
}

template void fused_product(cudaStream_t, const FusedProduct<c10::BFloat16>&, int);
template void fused_product(cudaStream_t, const FusedProduct<c10::Half>&, int);

}  // namespace ulmfit_fast::cuda
