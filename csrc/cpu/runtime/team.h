// How the threads of one parallel region share a sequence: a barrier a step instead of a region a step.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../common/philox.h"  // ULMFIT_ALWAYS_INLINE

namespace ulmfit_fast {

// Work is cut into slices, a grid of row parts x column parts. Splitting columns (hidden units) alone lets each thread
// read mostly its own weights; rows are split too where the columns do not divide evenly among the threads.
struct Grid {
  int64_t row_parts = 1, column_parts = 1;

  ULMFIT_ALWAYS_INLINE int64_t slices() const { return row_parts * column_parts; }
};

// Part `index` of `parts` of 0 .. count.
struct Range {
  Range() = default;
  ULMFIT_ALWAYS_INLINE Range(int64_t count, int64_t index, int64_t parts)
      : first(count * index / parts), last(count * (index + 1) / parts) {}
  ULMFIT_ALWAYS_INLINE int64_t count() const { return last - first; }
  int64_t first = 0, last = 0;
};

// The size of pieces of `count` for Member::share: as many pieces for every slice, up to `rounds` while they are of at
// least `least`, more where they would exceed `most`.
ULMFIT_ALWAYS_INLINE int64_t piece_size(int64_t count, int64_t slices, int64_t least, int64_t most, int64_t rounds) {
  const int64_t affordable = count / (least * slices), needed = (count + most * slices - 1) / (most * slices);
  int64_t each = affordable < rounds ? affordable : rounds;
  if (each < needed) each = needed;
  return each == 0 ? 1 : (count + each * slices - 1) / (each * slices);
}

// Pieces of a slice's work, 0 .. count, that are taken: the owner takes from the front, others from the back. Empty
// where nothing is left.
class alignas(64) TakenPieces {
 public:
  ULMFIT_ALWAYS_INLINE void reset() { taken_.store(0, std::memory_order_relaxed); }

  // A quarter of what is left: large pieces first, small ones to end together.
  ULMFIT_ALWAYS_INLINE Range take(int64_t count, bool owner) {
    Range piece;
    uint64_t taken = taken_.load(std::memory_order_relaxed), more;
    do {
      const auto front = static_cast<int64_t>(taken & kFront), back = count - static_cast<int64_t>(taken >> 32);
      if (front >= back) return {};
      const int64_t pieces = (back - front + 3) / 4;
      more = static_cast<uint64_t>(pieces) << (owner ? 0 : 32);
      piece.first = owner ? front : back - pieces;
      piece.last = piece.first + pieces;
    } while (!taken_.compare_exchange_weak(taken, taken + more, std::memory_order_relaxed));
    return piece;
  }

 private:
  static constexpr uint64_t kFront = 0xFFFFFFFFu;
  std::atomic<uint64_t> taken_{0};
};

// Each thread owns a range of slices and arrives for all it owns. The count only grows, so that any number of threads
// works as long as the ranges cover all slices, one thread owning everything included. What is taken of shared work is
// counted here, too.
struct Barrier {
  ULMFIT_ALWAYS_INLINE explicit Barrier(int64_t slice_count)
      : slices(slice_count), pieces{std::vector<TakenPieces>(slice_count), std::vector<TakenPieces>(slice_count)} {}

  const int64_t slices;
  std::atomic<int64_t> arrived{0};
  // By share() and steal(): one in use, one ready for the next time.
  std::atomic<int64_t> taken[2] = {};
  std::vector<TakenPieces> pieces[2];
};

// One thread's view of the team.
class Member {
 public:
  ULMFIT_ALWAYS_INLINE Member(Barrier& barrier, int64_t first_slice, int64_t last_slice)
      : first(first_slice), last(last_slice), barrier_(barrier) {}

  const int64_t first, last;  // its slices

  // Everything any member wrote before its call is visible to every member after its own.
  ULMFIT_ALWAYS_INLINE void wait() {
    if (alone()) return;
    target_ += barrier_.slices;
    barrier_.arrived.fetch_add(last - first, std::memory_order_acq_rel);
    for (int64_t spins = 0; barrier_.arrived.load(std::memory_order_acquire) < target_; ++spins) {
      if (spins < kSpinsBeforeYield)
        pause();
      else
        sched_yield();  // more threads than cores: let the late one run
    }
  }

  // Calls work(i) once for each i < count, on whichever member is free: cores are not always equally fast. Every member
  // takes part, and waits before it shares again. What is computed must not depend on who computes it.
  template <typename Work>
  ULMFIT_ALWAYS_INLINE void share(int64_t count, Work work) {
    std::atomic<int64_t>& taken = barrier_.taken[shared_ % 2];
    barrier_.taken[++shared_ % 2].store(0, std::memory_order_relaxed);  // all are done with what it counted
    for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
  }

  // Calls work(slice, first, last) until 0 .. count(slice) is done for each slice: its own slices first, whose data may
  // be near, then what other members, on slower cores, have left. Otherwise as share().
  template <typename Count, typename Work>
  ULMFIT_ALWAYS_INLINE void steal(Count count, Work work) {
    if (alone()) {
      for (int64_t slice = first; slice < last; ++slice)
        if (const int64_t all = count(slice); all > 0) work(slice, 0, all);
      return;
    }
    std::vector<TakenPieces>& pieces = barrier_.pieces[stolen_ % 2];
    ++stolen_;
    for (int64_t slice = first; slice < last; ++slice) barrier_.pieces[stolen_ % 2][slice].reset();
    for (int64_t i = 0; i < barrier_.slices; ++i) {
      const int64_t slice = (first + i) % barrier_.slices, all = count(slice);
      const bool owner = i < last - first;
      for (Range piece = pieces[slice].take(all, owner); piece.count() > 0; piece = pieces[slice].take(all, owner))
        work(slice, piece.first, piece.last);
    }
  }

 private:
  // Small work has one member. Counting for others, in locked instructions that wait for a step's stores, took a fifth
  // of training at 64 units and one row.
  ULMFIT_ALWAYS_INLINE bool alone() const { return last - first == barrier_.slices; }

  static constexpr int64_t kSpinsBeforeYield = 2000;

  ULMFIT_ALWAYS_INLINE static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  Barrier& barrier_;
  int64_t target_ = 0, shared_ = 0, stolen_ = 0;
};

// Denormal numbers read and written as zero while in scope: they cost a hundred cycles each and carry nothing.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  ULMFIT_ALWAYS_INLINE FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ULMFIT_ALWAYS_INLINE ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  const unsigned saved_;
#elif defined(__aarch64__)
  ULMFIT_ALWAYS_INLINE FlushDenormals() : saved_(read()) { write(saved_ | uint64_t{1} << 24); }  // FZ
  ULMFIT_ALWAYS_INLINE ~FlushDenormals() { write(saved_); }

 private:
  ULMFIT_ALWAYS_INLINE static uint64_t read() {
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  ULMFIT_ALWAYS_INLINE static void write(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control) : "memory"); }

  const uint64_t saved_;
#else
 public:
  ~FlushDenormals() {}  // not trivial: an object of it is a use
#endif
};

// Hands out 64-byte aligned pieces of one block. With a null block it only counts.
class Carver {
 public:
  ULMFIT_ALWAYS_INLINE explicit Carver(std::byte* block) : block_(block) {}

  template <typename T>
  ULMFIT_ALWAYS_INLINE T* take(int64_t elements) {
    T* piece = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + taken_);
    taken_ += (elements * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
  ULMFIT_ALWAYS_INLINE int64_t taken() const { return taken_; }

 private:
  std::byte* block_;
  int64_t taken_ = 0;
};

}  // namespace ulmfit_fast
