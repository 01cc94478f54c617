// How the native tests run a kernel and compare its results.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "definition.h"

namespace ulmfit_fast {

// Exits at the first value that is farther than `tolerance` of the largest (at least 1) from what is expected.
template <typename E>
void require_near(const char* name, const std::vector<E>& ours, const std::vector<double>& expected, double tolerance) {
  double largest = 1;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t j = 0; j < expected.size(); ++j) {
    if (std::abs(to_double(ours[j]) - expected[j]) <= tolerance * largest) continue;
    std::fprintf(stderr, "%s[%zu]: %g, expected %g\n", name, j, to_double(ours[j]), expected[j]);
    std::exit(1);
  }
}

template <typename Args, typename Kernel>
void run_team(const Args& args, int64_t slice_count, int threads, Kernel kernel) {
  Barrier barrier(slice_count);
  std::vector<std::thread> team;
  for (int index = 0; index < threads; ++index) {
    const Range slices(slice_count, index, threads);
    if (slices.count() > 0)
      team.emplace_back([&, slices] { kernel(args, Member(barrier, slices.first, slices.last)); });
  }
  for (std::thread& member : team) member.join();
}

void check_cross_entropy();    // cross_entropy_test.cpp
void check_quantized();        // quantized_test.cpp
void check_qrnn();             // qrnn_test.cpp
void check_team();             // team_test.cpp
void check_cuda_geometry();    // cuda_geometry_test.cpp
void check_fused_step_plan();  // fused_step_plan_test.cpp
void check_persistent_plan();  // persistent_plan_test.cpp

}  // namespace ulmfit_fast
