// Torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>

namespace ulmfit_fast {

// A team's barrier needs all its slices at work at the same time, or all on one thread. Torch promises that with
// OpenMP, not with a thread pool of its own; which of them it was built with has no stable form, so that Python says it
// (ops/shared.py).
inline std::atomic<bool> teams_allowed{true};

// Inside a parallel region torch runs everything on the thread that asks, whatever this says.
inline int64_t team_threads() {
  return teams_allowed.load(std::memory_order_relaxed) ? torch::stable::get_num_threads() : 1;
}

// work(begin, end) for parts of 0 .. count of at least `grain`, on torch's threads. It must not throw.
template <typename Work>
void parallel_for(int64_t count, int64_t grain, const Work& work) {
  torch::stable::parallel_for(0, count, grain, work);
}

}  // namespace ulmfit_fast
