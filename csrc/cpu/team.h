// How the threads of one parallel region share a sequence: a barrier a step instead of a region a step.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "../common/philox.h"  // ULMFIT_ALWAYS_INLINE

namespace ulmfit_fast {

// Work is cut into `slices`; each thread owns a range of them and arrives for all it owns. The count only grows, so
// that any number of threads works as long as the ranges cover all slices, one thread owning everything included.
struct Barrier {
  ULMFIT_ALWAYS_INLINE explicit Barrier(int64_t slice_count) : slices(slice_count) {}

  const int64_t slices;
  std::atomic<int64_t> arrived{0};
};

// One thread's view of the team.
class Member {
 public:
  ULMFIT_ALWAYS_INLINE Member(Barrier& barrier, int64_t begin, int64_t end)
      : barrier_(barrier), begin_(begin), end_(end) {}

  // This thread's share of `count` panels.
  ULMFIT_ALWAYS_INLINE int64_t first(int64_t count) const { return count * begin_ / barrier_.slices; }
  ULMFIT_ALWAYS_INLINE int64_t last(int64_t count) const { return count * end_ / barrier_.slices; }

  // Where this thread's scratch begins in a block of `stride` elements a slice.
  template <typename T>
  ULMFIT_ALWAYS_INLINE T* scratch(T* block, int64_t stride) const {
    return block + begin_ * stride;
  }

  // Everything any member wrote before its call is visible to every member after its own.
  ULMFIT_ALWAYS_INLINE void wait() {
    target_ += barrier_.slices;
    barrier_.arrived.fetch_add(end_ - begin_, std::memory_order_acq_rel);
    for (int64_t spins = 0; barrier_.arrived.load(std::memory_order_acquire) < target_; ++spins) {
      if (spins < kSpinsBeforeYield)
        pause();
      else
        sched_yield();  // more threads than cores: let the late one run
    }
  }

 private:
  static constexpr int64_t kSpinsBeforeYield = 2000;

  ULMFIT_ALWAYS_INLINE static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  Barrier& barrier_;
  const int64_t begin_, end_;
  int64_t target_ = 0;
};

// Denormal numbers read and written as zero while in scope: they cost a hundred cycles each and carry nothing.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  ULMFIT_ALWAYS_INLINE FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ULMFIT_ALWAYS_INLINE ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  const unsigned saved_;
#endif
};

}  // namespace ulmfit_fast
