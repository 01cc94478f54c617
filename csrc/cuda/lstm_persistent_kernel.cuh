// All steps of h_{t-1} (M o W_hh)^T / (1-p) and the cell in one launch: a block owns 4 to 20 units with all their
// gates, and 8 to 64 rows, for the whole sequence. Its weights are loaded and masked once, into shared memory; c stays
// in registers. Its warps share the depth of the product: each waits for the slices whose units it reads, loads their h
// from L2 into the registers that the tensor cores take, and adds up in float32. The partial sums meet in shared memory
// in a fixed order. A thread then computes cells, h is published, and what no later step reads is stored after that.
// Limit: what blocks read of h from L2, and the way from one block's h to another's. Deterministic.
#pragma once

#include "cell.cuh"
#include "keep_bits.cuh"
#include "launch.cuh"
#include "lstm_persistent.h"
#include "persistent_flags.cuh"
#include "persistent_steps.h"
#include "tensor_core.cuh"

namespace ulmfit_fast::cuda {

// Slabs of h that a warp has on their way at once: as many as registers hold beside the sums.
constexpr int slabs_ahead(int unit_tiles, int row_tiles) {
  const int fit = (140 - 4 * unit_tiles * row_tiles) / (4 * row_tiles);
  return fit < 1 ? 1 : (fit > 5 ? 5 : fit);
}

struct alignas(16) FourSums {
  float of_gate[4];
};

// One block's part of a launch.
template <typename E, int unit_tiles, int row_tiles, int warps>
struct PersistentBlock {
  static constexpr int kUnits = unit_tiles * kSliceUnits, kRows = row_tiles * kGroupRows, kThreads = 32 * warps;
  static constexpr int kParts = (warps + 1) / 2;  // partial sums in shared memory
  static constexpr int kStride = static_cast<int>(sums_stride(unit_tiles));
  static constexpr int kCells = (kUnits * kRows + kThreads - 1) / kThreads;  // of a thread

  const PersistentLaunch<E>& a;
  int64_t hidden, slabs, first_unit, first_row;
  Eight* weights;  // [slabs, unit_tiles, 2, 32] of a lane's two rows of a tile
  float* sums;     // [kParts, kRows, kStride] unit after unit, its four gates together
  int warp, lane;

  __device__ PersistentBlock(const PersistentLaunch<E>& launch, unsigned char* shared)
      : a(launch),
        hidden(launch.cell.hidden),
        slabs((hidden + kDepth - 1) / kDepth),
        first_unit(int64_t{blockIdx.x % static_cast<unsigned>(launch.slices)} * kUnits),
        first_row(int64_t{blockIdx.x / static_cast<unsigned>(launch.slices)} * kRows),
        weights(reinterpret_cast<Eight*>(shared)),
        sums(reinterpret_cast<float*>(weights + slabs * unit_tiles * 64)),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32) {}

  __device__ void load_weights() const {
    const auto key = static_cast<uint64_t>(a.seed != nullptr ? *a.seed : a.seed_value);
    const auto all = static_cast<int>(slabs * unit_tiles * 64);
    for (int index = threadIdx.x; index < all; index += kThreads) {
      const int of_lane = index % 32, row = of_lane / 4 + index / 32 % 2 * 8, tile = index / 64 % unit_tiles;
      const int64_t unit = first_unit + tile * kSliceUnits + row / 4;
      const int64_t column = int64_t{index / (64 * unit_tiles)} * kDepth + of_lane % 4 * 8;
      Eight eight{};
      if (unit < hidden && column < hidden) {
        const int64_t at = (row % 4 * hidden + unit) * hidden + column;
        eight = load_eight(a.weight + at);
        if (a.threshold > 0) clear_dropped(eight, keep_bits_of_eight(key, at / 8, a.threshold));
      }
      weights[index] = eight;
    }
  }

  // One of a thread's units of a row.
  struct Cell {
    int column, row;  // in the block
    int64_t r, unit;  // in the call
    bool exists;
  };
  __device__ Cell cell_of(int number, int64_t rows) const {
    const int index = number * kThreads + static_cast<int>(threadIdx.x);
    const int column = index % kUnits, row = index / kUnits;
    const int64_t r = first_row + row, unit = first_unit + column;
    return {column, row, r, unit, row < kRows && r < rows && unit < hidden};
  }

  __device__ int64_t first_slab() const { return slabs * warp / warps; }
  __device__ int64_t end_slab() const { return slabs * (warp + 1) / warps; }

  // Whether all units are there that this warp reads of step s - 1; this slice's own are, as the block has met since.
  // All lanes together.
  __device__ bool wait_for_state(int64_t s) const {
    const Epoch awaited = awaited_before(a.before, s);
    const auto own = static_cast<int>(blockIdx.x % static_cast<unsigned>(a.slices));
    const Epoch* flags = a.flags + (blockIdx.x - static_cast<unsigned>(own));
    const auto end = static_cast<int>((min_of(end_slab() * kDepth, hidden) + kUnits - 1) / kUnits);
    bool all = true;
    for (int slice = static_cast<int>(first_slab() * kDepth / kUnits) + lane; slice < end; slice += 32) {
      if (slice == own || arrives(flags + slice, awaited, a.most_polls)) continue;
      store_status(a.status, lost_wake_up(slice, awaited));
      all = false;
    }
    __syncwarp();
    return all;
  }

  __device__ static int64_t min_of(int64_t x, int64_t y) { return x < y ? x : y; }

  // Of the step before, in the order of the tensor cores' rows.
  __device__ void multiply(const E* const (&rows)[row_tiles], float (&of_warp)[unit_tiles][row_tiles][4]) const {
    constexpr int kAhead = slabs_ahead(unit_tiles, row_tiles);
    const int64_t end = end_slab();
    for (int64_t slab = first_slab(); slab < end; slab += kAhead) {
      Eight state[kAhead][row_tiles] = {};
      ULMFIT_UNROLL
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const int64_t column = (slab + ahead) * kDepth + lane % 4 * 8;
        for (int tile = 0; tile < row_tiles; ++tile)
          if (slab + ahead < end && column < hidden && rows[tile] != nullptr)
            state[ahead][tile] = load_eight(rows[tile] + column);
      }
      ULMFIT_UNROLL
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        if (slab + ahead >= end) break;
        const Eight* of_slab = weights + (slab + ahead) * unit_tiles * 64 + lane;
        for (int tile = 0; tile < unit_tiles; ++tile) {
          const Eight one = of_slab[tile * 64], other = of_slab[tile * 64 + 32];
          for (int half = 0; half < 2; ++half) {
            const uint32_t w[4] = {one.pairs[2 * half], other.pairs[2 * half], one.pairs[2 * half + 1],
                                   other.pairs[2 * half + 1]};
            for (int row_tile = 0; row_tile < row_tiles; ++row_tile) {
              const uint32_t b[2] = {state[ahead][row_tile].pairs[2 * half],
                                     state[ahead][row_tile].pairs[2 * half + 1]};
              multiply_add<E>(of_warp[tile][row_tile], w, b);
            }
          }
        }
      }
    }
  }

  template <typename Work>
  __device__ void for_sums(float (&of_warp)[unit_tiles][row_tiles][4], const Work& work) const {
    float* part = sums + warp % kParts * kRows * kStride;
    for (int tile = 0; tile < unit_tiles; ++tile)
      for (int row_tile = 0; row_tile < row_tiles; ++row_tile)
        for (int i = 0; i < 4; ++i)
          work(part[(row_tile * kGroupRows + 2 * (lane % 4) + i % 2) * kStride + tile * kSliceGates + lane / 4 +
                    i / 2 * 8],
               of_warp[tile][row_tile][i]);
  }

  __device__ CellResult<E> result_of(const Cell& cell, const CellInputs<float>& inputs) const {
    float from_state[4] = {};
    for (int part = 0; part < kParts; ++part) {
      const float* at = sums + (part * kRows + cell.row) * kStride + 4 * cell.column;
      const FourSums four = *reinterpret_cast<const FourSums*>(at);
      for (int gate = 0; gate < 4; ++gate) from_state[gate] += four.of_gate[gate];
    }
    for (float& gate : from_state) gate *= a.scale;
    return cell_result<E>(inputs, from_state);
  }

  // Nobody shall take for results what a launch left that gave up: from this step on they are no numbers.
  __device__ void give_up(PersistentSteps steps) const {
    const float none = __builtin_nanf("");
    for (; steps.step().rows > 0; steps.advance()) {
      for (int number = 0; number < kCells; ++number) {
        const Cell cell = cell_of(number, steps.step().rows);
        if (!cell.exists) continue;
        const int64_t index = cell.r * hidden + cell.unit;
        if (a.cell.output != nullptr)
          a.cell.output[(steps.step().first_row + cell.r) * hidden + cell.unit] = static_cast<E>(none);
        if (a.cell.pool.total != nullptr) a.cell.pool.total[index] = a.cell.pool.maximum[index] = none;
        a.h[index] = static_cast<E>(none);
        a.cell.c[index] = none;
      }
    }
  }

  __device__ void run(int* lost) const {
    float c[kCells] = {};
    int64_t s = 0;
    for (PersistentSteps steps(a.runs, a.reversed); steps.step().rows > 0; steps.advance(), ++s) {
      const int64_t rows = steps.step().rows, rows_after = steps.rows_after();
      if (rows <= first_row) continue;  // the group has none of them yet, or no longer
      const int64_t continuing = min_of(rows, steps.rows_before());
      ForwardStep<E> step = a.cell;
      step.rows = rows;
      step.first_row = step.output_row = steps.step().first_row;
      step.step = steps.step().time;

      // What cells take beside h is on its way while this warp waits.
      CellInputs<float> inputs[kCells] = {};
      for (int number = 0; number < kCells; ++number) {
        const Cell cell = cell_of(number, rows);
        if (!cell.exists) continue;
        inputs[number] = gate_inputs(step, cell.r, cell.unit);
        if (cell.r >= continuing) c[number] = a.cell.c[cell.r * hidden + cell.unit];
      }
      if (continuing > first_row && !wait_for_state(s)) *lost = 1;

      const E* state[row_tiles];
      for (int tile = 0; tile < row_tiles; ++tile) {
        const int64_t r = first_row + tile * kGroupRows + lane / 4;
        const E* exchanged = a.exchange + (half_read(s) * a.batch + r) * hidden;
        state[tile] = r >= rows ? nullptr : (r < continuing ? exchanged : a.h0 + r * hidden);
      }
      float of_warp[unit_tiles][row_tiles][4] = {};
      multiply(state, of_warp);
      if (warp >= kParts) for_sums(of_warp, [](float& part, float sum) { part = sum; });
      __syncthreads();  // of this step all has been read
      if (*lost != 0) return give_up(steps);
      if (warp < kParts) {
        const bool alone = warp + kParts >= warps;
        for_sums(of_warp, [alone](float& part, float sum) { part = alone ? sum : part + sum; });
      }
      __syncthreads();
      CellResult<E> results[kCells];
      for (int number = 0; number < kCells; ++number) {
        const Cell cell = cell_of(number, rows);
        if (!cell.exists) continue;
        inputs[number].c = c[number];
        results[number] = result_of(cell, inputs[number]);
        c[number] = results[number].c;
        a.exchange[(half_written(s) * a.batch + cell.r) * hidden + cell.unit] = results[number].h;
      }
      __syncthreads();  // all of this slice is written, and the sums have been read
      if (threadIdx.x == 0) store_release(a.flags + blockIdx.x, published_after(a.before, s));
      for (int number = 0; number < kCells; ++number) {
        const Cell cell = cell_of(number, rows);
        if (!cell.exists) continue;
        keep_cell(step, cell.r, cell.unit, results[number]);
        if (cell.r < rows_after) continue;
        a.h[cell.r * hidden + cell.unit] = results[number].h;
        a.cell.c[cell.r * hidden + cell.unit] = results[number].c;
      }
    }
  }
};

template <typename E, int unit_tiles, int row_tiles, int warps>
__global__ void __launch_bounds__(32 * warps) persistent_forward_kernel(const __grid_constant__ PersistentLaunch<E> a) {
  __shared__ int lost;
  const PersistentBlock<E, unit_tiles, row_tiles, warps> block(a, shared_of_launch());
  if (threadIdx.x == 0) lost = 0;
  block.load_weights();
  __syncthreads();
  block.run(&lost);
}

}  // namespace ulmfit_fast::cuda
