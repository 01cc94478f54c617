// How a call's work is divided among torch's threads.
#pragma once

#include <algorithm>

#include "../runtime/parallel.h"
#include "lstm_kernel.h"

namespace ulmfit_fast {

// The most threads that pay. A team costs a wake-up and a barrier a step, and each thread must save more: below about
// 300,000 multiply-adds a step two threads were slower than one (2 cores of Zen 4: 0.5 to 0.85 of its speed at 16 to 64
// units; and beside other processes, where a barrier may wait for a core, a hundredth of it). By the sizes alone.
inline int64_t useful_threads(const LstmSizes& sizes, bool packed) {
  constexpr double kLeastWork = 150e3;         // multiply-adds a step and thread
  constexpr double kWakeUpSteps = 2;           // waking the team takes as long as the barriers of so many steps
  const double packing_rows = packed ? 0 : 3;  // packing the weights as long as so many rows
  const double weights = 4.0 * static_cast<double>(sizes.hidden) * static_cast<double>(sizes.input + sizes.output);
  const double work = weights * (static_cast<double>(sizes.rows) + packing_rows);
  return static_cast<int64_t>(work / (static_cast<double>(sizes.steps) + kWakeUpSteps) / kLeastWork);
}

// How many threads share the hidden units, and how many the rows: the hidden units alone unless splitting the rows too
// takes more than 5 % off the busiest thread.
inline Grid make_grid(const LstmSizes& sizes, int64_t lanes, int64_t tile_rows, bool packed = false) {
  const int64_t threads = std::clamp<int64_t>(useful_threads(sizes, packed), 1, team_threads());
  const auto parts = [](int64_t count, int64_t size) { return (count + size - 1) / size; };
  const int64_t vectors = parts(sizes.hidden, lanes), tiles = parts(sizes.batch, tile_rows);
  Grid best;
  double least = 0;
  for (int64_t row_parts = 1; row_parts <= std::min(threads, tiles); ++row_parts) {
    const int64_t column_parts = std::min(threads / row_parts, vectors);
    const double busiest = static_cast<double>(parts(tiles, row_parts) * parts(vectors, column_parts));
    if (row_parts == 1 || busiest < 0.95 * least) {
      best = {row_parts, column_parts};
      least = busiest;
    }
  }
  return best;
}

// Runs `kernel(args, member)` for so many slices at once.
template <typename Args, typename Kernel>
void run_team(const Args& args, int64_t slices, Kernel kernel) {
  Barrier barrier(slices);
  parallel_for(slices, 1, [&](int64_t begin, int64_t end) { kernel(args, Member(barrier, begin, end)); });
}

}  // namespace ulmfit_fast
