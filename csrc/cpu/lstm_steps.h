// Small things that the LSTM's forward and backward kernels share: where a row's neighbour in time is, scratch.
#pragma once

#include "lstm_kernel.h"
#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

static inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// The most panels one slice of `slices` gets.
static inline int64_t share(int64_t panels, int64_t slices) {
  return (panels + slices - 1) / slices;
}

// One thread's panels.
struct PanelRange {
  PanelRange(const Member& member, int64_t panels) : first(member.first(panels)), last(member.last(panels)) {}
  int64_t count() const { return last - first; }
  const int64_t first, last;
};

// Hands out 64-byte aligned pieces of one block. With a null block it only counts.
template <typename T>
class Carver {
 public:
  explicit Carver(T* block) : block_(block) {}

  T* take(int64_t elements) {
    T* piece = block_ == nullptr ? nullptr : block_ + taken_;
    constexpr int64_t kAlign = 64 / sizeof(T);
    taken_ += (elements + kAlign - 1) / kAlign * kAlign;
    return piece;
  }
  int64_t taken() const { return taken_; }

 private:
  T* block_;
  int64_t taken_ = 0;
};

// Rows of `step` (in order of computation) that were already running in the step before it.
static inline int64_t continuing_rows(const LstmSizes& sizes, int64_t step) {
  if (step == 0) return 0;
  return smaller(sizes.batch_sizes[sizes.step(step)], sizes.batch_sizes[sizes.step(step - 1)]);
}

// Row `r`'s values one step of computation before `step`: in `states` [N, width] or, at its start, in `initial`
// [B, width].
template <typename T>
static inline T* previous_row(const LstmSizes& sizes, int64_t step, int64_t r, T* states, T* initial, int64_t width) {
  if (r < continuing_rows(sizes, step)) return states + (sizes.offsets[sizes.step(step - 1)] + r) * width;
  return initial + r * width;
}

}  // namespace ulmfit_fast::ULMFIT_ISA
