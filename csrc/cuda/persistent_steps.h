// The steps of a persistent launch as each of its blocks goes through them: from the runs of equally many rows that the
// launch's parameters carry, forward or backward in time. Tested without a GPU.
#pragma once

#include "../common/philox.h"  // ULMFIT_HOST_DEVICE
#include "packed_runs.h"

namespace ulmfit_fast::cuda {

struct PersistentStep {
  int64_t rows = 0;       // of the step, 0: there is none
  int64_t first_row = 0;  // in the packed batch
  int64_t time = 0;
};

class PersistentSteps {
 public:
  ULMFIT_HOST_DEVICE constexpr PersistentSteps(const PackedRuns& runs, bool reversed)
      : runs_(runs), reversed_(reversed) {
    if (runs.count > 0) enter(reversed ? runs.count - 1 : 0);
  }

  ULMFIT_HOST_DEVICE constexpr const PersistentStep& step() const { return step_; }
  // Rows of the steps computed before and after this one, as far as this launch computes them.
  ULMFIT_HOST_DEVICE constexpr int64_t rows_before() const { return before_; }
  ULMFIT_HOST_DEVICE constexpr int64_t rows_after() const {
    if (left_ > 1) return step_.rows;
    const int next = reversed_ ? run_ - 1 : run_ + 1;
    return next >= 0 && next < runs_.count ? runs_.runs[next].rows : 0;
  }

  ULMFIT_HOST_DEVICE constexpr void advance() {
    before_ = step_.rows;
    if (--left_ > 0) {
      step_.first_row += reversed_ ? -step_.rows : step_.rows;
      step_.time += reversed_ ? -1 : 1;
      return;
    }
    const int next = reversed_ ? run_ - 1 : run_ + 1;
    if (next >= 0 && next < runs_.count)
      enter(next);
    else
      step_ = {};
  }

 private:
  ULMFIT_HOST_DEVICE constexpr void enter(int run) {
    run_ = run;
    const PackedRun& at = runs_.runs[run];
    const int64_t end_row = run + 1 < runs_.count ? runs_.runs[run + 1].first_row : runs_.end_row;
    left_ = (end_row - at.first_row) / at.rows;
    step_ = {at.rows, reversed_ ? end_row - at.rows : at.first_row, reversed_ ? at.end_step - 1 : at.end_step - left_};
  }

  const PackedRuns& runs_;
  bool reversed_;
  int run_ = 0;
  int64_t left_ = 0, before_ = 0;  // left: steps of the run, this one included
  PersistentStep step_;
};

}  // namespace ulmfit_fast::cuda
