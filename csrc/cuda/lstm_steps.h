// What the ways to run an LSTM's steps on CUDA share: the steps in order of computation, and the mask's seed.
#pragma once

#include <algorithm>
#include <vector>

#include "../lstm.h"

namespace ulmfit_fast::cuda {

struct Steps {
  Steps(const LstmInputs& a, bool reverse)
      : count(a.steps()),
        reversed(reverse),
        sizes(a.batch_sizes.const_data_ptr<int64_t>()),
        offsets(row_offsets(a.batch_sizes)) {}

  int64_t at(int64_t s) const { return reversed ? count - 1 - s : s; }
  int64_t rows(int64_t s) const { return s < 0 || s >= count ? 0 : sizes[at(s)]; }
  int64_t first_row(int64_t s) const { return offsets[at(s)]; }
  // Rows of step s that the step before it also had, or that the one after it has.
  int64_t continuing(int64_t s) const { return std::min(rows(s), rows(s - 1)); }
  int64_t continued(int64_t s) const { return std::min(rows(s), rows(s + 1)); }

  const int64_t count;
  const bool reversed;
  const int64_t* sizes;
  const std::vector<int64_t> offsets;
};

// One on the device is read there, so that no call waits for it. One on the CPU goes along as a number, as a CUDA graph
// could not hold the copy of it: each replay then drops the same.
struct Seed {
  explicit Seed(const Tensor& seed)
      : there(seed.is_cpu() ? nullptr : seed.const_data_ptr<int64_t>()),
        value(seed.is_cpu() ? *seed.const_data_ptr<int64_t>() : 0) {}

  const int64_t* there;
  const int64_t value;
};

}  // namespace ulmfit_fast::cuda
