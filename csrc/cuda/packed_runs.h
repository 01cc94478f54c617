// Packed rows by runs of steps that have equally many rows, as a launch's parameters carry them: no copy to the device,
// which would wait or could not be captured in a graph. One launch does as many runs as fit.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast::cuda {

constexpr int kMostRuns = 128;  // 3 KB of the 4 KB that a launch may carry

struct PackedRun {
  int64_t first_row, rows;  // rows: of each of its steps
  int64_t end_step;         // the step after its last one
};

struct PackedRuns {
  int64_t first_row, end_row;       // of all its runs together
  int64_t rows_before, rows_after;  // of the steps next to them, 0 where there is none
  int count;
  PackedRun runs[kMostRuns];

  // The run that holds a packed row.
  constexpr int run_of(int64_t row) const {
    int low = 0, high = count;  // the last one that begins at or before it
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (runs[middle].first_row <= row ? low : high) = middle;
    }
    return low;
  }

  // The last run in which sequence `r` still has rows, -1 if none.
  constexpr int last_with(int64_t r) const {
    int low = -1, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (runs[middle].rows > r ? low : high) = middle;
    }
    return low;
  }

  // The run's rows end where the next one's begin.
  constexpr int64_t end_of(int run) const { return run + 1 < count ? runs[run + 1].first_row : end_row; }
};

// work(runs) for all of a packed batch's, as many at a time as a launch takes. A step without rows is none.
template <typename Work>
void for_packed_runs(const int64_t* batch_sizes, int64_t steps, const Work& work) {
  PackedRuns runs{};
  int64_t row = 0, rows_before = 0;
  for (int64_t t = 0; t < steps && batch_sizes[t] > 0;) {
    int64_t end = t;
    while (end < steps && batch_sizes[end] == batch_sizes[t]) ++end;
    if (runs.count == 0) {
      runs.first_row = row;
      runs.rows_before = rows_before;
    }
    runs.runs[runs.count++] = {row, batch_sizes[t], end};
    row += (end - t) * batch_sizes[t];
    rows_before = batch_sizes[t];
    t = end;
    runs.end_row = row;
    runs.rows_after = t < steps ? batch_sizes[t] : 0;
    if (runs.count < kMostRuns && runs.rows_after > 0) continue;
    work(runs);
    runs.count = 0;
  }
}

}  // namespace ulmfit_fast::cuda
