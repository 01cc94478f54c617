// Whether one launch computes a call's whole recurrence, and in which tiles: plain functions of sizes, tested without a
// GPU. None of the numbers has been measured: they follow from what a block reads and multiplies.
//
// A block owns `unit_tiles * 4` units with all their gates, and `row_tiles * 8` rows. Its part of W_hh stays in shared
// memory for the whole sequence. The blocks of the same rows, a group, exchange h; groups have nothing to do with each
// other. Every block waits for others, so all of them must be on the device at once.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast::cuda {

constexpr int kPersistentWarps = 8;           // of a block: they share the depth of its product
constexpr int kSliceUnits = 4;                // four units' four gates are the 16 rows of a product
constexpr int kSliceGates = 4 * kSliceUnits;  //
constexpr int kGroupRows = 8;                 // and eight rows of h its columns
constexpr int kDepth = 32;                    // that a warp loads at a time: 16 bytes a lane
constexpr int kMostUnitTiles = 5;
constexpr int kPersistentRowTiles[] = {1, 2, 4, 8};
constexpr int kMostTiles = 24;                   // of a block together: their sums stay in registers
constexpr int kPersistentCapability = 80;        // the first with this product
constexpr int64_t kMostPersistentRows = 128;     // of a call
constexpr int64_t kPersistentStaticShared = 64;  // bytes beside what the plan counts

// Elements between two rows of a block's sums in shared memory: lanes of a warp then write to different banks, and the
// four gates of a unit are 16 bytes that are aligned.
constexpr int64_t sums_stride(int unit_tiles) {
  return unit_tiles * kSliceGates + 4;
}

// What decides whether a call can be computed by one launch. Lengths do not: any ragged batch can.
struct PersistentCall {
  int64_t rows, hidden;  // rows: of the widest step
  bool half;             // elements of two bytes
  bool projected;        // h is a product of what the cell gives, which needs all units of a row
  bool aligned;          // weights and first states begin at multiples of 16 bytes
};

struct PersistentDevice {
  int capability;        // ten times the major version, and the minor one
  int processors;        //
  int64_t shared_bytes;  // that a block may have at most
  bool cooperative;      // it can start all blocks of a launch at once, or none
};

struct PersistentTiles {
  int unit_tiles, row_tiles;

  constexpr bool operator==(const PersistentTiles&) const = default;
  constexpr int units() const { return unit_tiles * kSliceUnits; }
  constexpr int rows() const { return row_tiles * kGroupRows; }
  constexpr bool compiled() const {
    return unit_tiles >= 1 && unit_tiles <= kMostUnitTiles && unit_tiles * row_tiles <= kMostTiles;
  }
};

// Why a call is not computed by one launch.
enum class NotPersistent {
  kFits,
  kElements,    // not of two bytes
  kProjection,  //
  kUnits,       // no multiple of eight, which are 16 bytes
  kAlignment,   //
  kRows,        // none, or too many
  kCapability,  // no such product of the tensor cores
  kNotAtOnce,   // the device has no cooperative launches
  kRoom,        // W_hh does not fit into the device's shared memory, or no block into a processor
};

struct PersistentPlan {
  NotPersistent why_not = NotPersistent::kFits;
  PersistentTiles tiles{0, 0};
  int slices = 0, groups = 0;  // of the units, of the rows
  int64_t hidden = 0, rows = 0;

  constexpr explicit operator bool() const { return why_not == NotPersistent::kFits; }
  constexpr int blocks() const { return slices * groups; }
  constexpr int64_t slabs() const { return (hidden + kDepth - 1) / kDepth; }

  // Bytes of a block's shared memory: its weights, in the order in which lanes load them, and the sums of half of its
  // warps.
  constexpr int64_t weight_bytes() const { return slabs() * kDepth * tiles.unit_tiles * kSliceGates * 2; }
  constexpr int64_t sums_bytes() const {
    return kPersistentWarps / 2 * tiles.rows() * sums_stride(tiles.unit_tiles) * int64_t{sizeof(float)};
  }
  constexpr int64_t shared_bytes() const { return weight_bytes() + sums_bytes(); }

  // Bytes of h that all blocks together read in a step, from L2: each slice reads all units of its rows.
  constexpr int64_t state_bytes_a_step() const { return slices * rows * hidden * 2; }
  // And what they would read of W_hh if it did not stay where it is.
  constexpr int64_t weight_bytes_spared_a_step() const { return groups * 4 * hidden * hidden * 2; }

  // Clocks of a step, to compare plans: 128 bytes of shared memory, 32 bytes of L2 and 1024 multiply-adds a clock.
  constexpr int64_t clocks_a_step() const {
    const int64_t group_rows = std::min<int64_t>(rows, tiles.rows());
    return weight_bytes() / 128 + group_rows * hidden * 2 / 32 +
           int64_t{tiles.unit_tiles} * kSliceGates * tiles.rows() * hidden / 1024;
  }
};

// The plan with these tiles, if the device has room for it.
constexpr PersistentPlan persistent_plan_with(const PersistentTiles& tiles, const PersistentCall& call,
                                              const PersistentDevice& device) {
  PersistentPlan plan{.tiles = tiles,
                      .slices = static_cast<int>((call.hidden + tiles.units() - 1) / tiles.units()),
                      .groups = static_cast<int>((call.rows + tiles.rows() - 1) / tiles.rows()),
                      .hidden = call.hidden,
                      .rows = call.rows};
  if (!tiles.compiled() || plan.blocks() > device.processors ||
      plan.shared_bytes() + kPersistentStaticShared > device.shared_bytes)
    plan.why_not = NotPersistent::kRoom;
  return plan;
}

// The one with the least clocks a step; of equal ones that with the fewest blocks, then the one found first.
constexpr PersistentPlan persistent_plan(const PersistentCall& call, const PersistentDevice& device) {
  const auto not_because = [](NotPersistent why) { return PersistentPlan{.why_not = why}; };
  if (!call.half) return not_because(NotPersistent::kElements);
  if (call.projected) return not_because(NotPersistent::kProjection);
  if (call.hidden <= 0 || call.hidden % 8 != 0) return not_because(NotPersistent::kUnits);
  if (!call.aligned) return not_because(NotPersistent::kAlignment);
  if (call.rows <= 0 || call.rows > kMostPersistentRows) return not_because(NotPersistent::kRows);
  if (device.capability < kPersistentCapability) return not_because(NotPersistent::kCapability);
  if (!device.cooperative) return not_because(NotPersistent::kNotAtOnce);
  PersistentPlan best = not_because(NotPersistent::kRoom);
  for (const int row_tiles : kPersistentRowTiles) {
    for (int unit_tiles = 1; unit_tiles <= kMostUnitTiles; ++unit_tiles) {
      const PersistentPlan plan = persistent_plan_with({unit_tiles, row_tiles}, call, device);
      if (!plan) continue;
      const bool better = plan.clocks_a_step() < best.clocks_a_step() ||
                          (plan.clocks_a_step() == best.clocks_a_step() && plan.blocks() < best.blocks());
      if (!best || better) best = plan;
    }
  }
  return best;
}

// Sizes with which an instance of the kernel is tried on a device: two groups of rows and several slices where it has
// the processors, neither the last slice nor the last group full.
struct PersistentTrial {
  int64_t rows, hidden;
};
constexpr PersistentTrial persistent_trial(const PersistentTiles& tiles, int processors) {
  const int groups = processors >= 4 ? 2 : 1;
  const int slices = std::clamp(processors / groups, 1, 5);
  return {tiles.rows() * groups - 3, std::max<int64_t>(8, (slices * tiles.units() - 1) / 8 * 8)};
}

}  // namespace ulmfit_fast::cuda
