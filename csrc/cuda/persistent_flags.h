// How the blocks of a persistent launch tell each other that their part of h is there.
//
// Each slice of a group has a flag, which only its block writes: the number of steps that it has published. A step is
//
//   wait until every slice that h is read from has published the step before    (acquire)
//   read h of the step before from one half of a buffer
//   meet: all warps of the block have read
//   write this slice's part of h into the other half
//   meet: all threads of the block have written
//   publish                                                                     (release, by one thread)
//
// Two halves suffice: whoever writes h_t has seen that all have published t - 1, and so have read h_{t-2}, which it
// overwrites. Numbers grow over all launches of a call and are never reset in between, so a flag that is late looks
// like one that is not there yet. A wait that never ends is given up after so many polls.
//
// tests/native/test_persistent_protocol.py explores every order of such steps, with the numbers that these functions
// give; tests/native/persistent_threads_test.cpp runs the kernel's source with blocks as threads under ThreadSanitizer.
#pragma once

#include <cstdint>

#include "../common/philox.h"  // ULMFIT_HOST_DEVICE
#ifndef __CUDACC__
#include <atomic>
#include <thread>
#endif

namespace ulmfit_fast::cuda {

using Epoch = uint32_t;

// Of step `s` of a launch before which the call's other launches published `before` steps.
ULMFIT_HOST_DEVICE constexpr Epoch published_after(Epoch before, int64_t s) {
  return before + static_cast<Epoch>(s) + 1;
}
ULMFIT_HOST_DEVICE constexpr Epoch awaited_before(Epoch before, int64_t s) {
  return before + static_cast<Epoch>(s);
}

// The half of the buffer that step s writes, or reads.
ULMFIT_HOST_DEVICE constexpr int half_written(int64_t s) {
  return static_cast<int>(s & 1);
}
ULMFIT_HOST_DEVICE constexpr int half_read(int64_t s) {
  return static_cast<int>((s + 1) & 1);
}

// Polls before a wait is given up: some seconds, as each takes a microsecond or so.
constexpr int64_t kMostPolls = int64_t{1} << 22;

// What a launch that gave up leaves for whoever asks: never 0.
ULMFIT_HOST_DEVICE constexpr uint64_t lost_wake_up(int64_t slice, Epoch awaited) {
  return uint64_t{1} << 63 | static_cast<uint64_t>(slice) << 32 | awaited;
}
constexpr int64_t lost_slice(uint64_t status) {
  return static_cast<int64_t>(status >> 32 & 0x7FFFFFFF);
}
constexpr Epoch lost_epoch(uint64_t status) {
  return static_cast<Epoch>(status);
}

#ifdef __CUDACC__

__device__ inline Epoch load_acquire(const Epoch* flag) {
  Epoch value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

__device__ inline void store_release(Epoch* flag, Epoch value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// The host reads it, perhaps while the launch still runs.
__device__ inline void store_status(uint64_t* status, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(status), "l"(value) : "memory");
}

#else  // for the host, by tests: blocks are threads

inline Epoch load_acquire(const Epoch* flag) {
  const Epoch value = std::atomic_ref(*const_cast<Epoch*>(flag)).load(std::memory_order_acquire);
  std::this_thread::yield();
  return value;
}

inline void store_release(Epoch* flag, Epoch value) {
  std::atomic_ref(*flag).store(value, std::memory_order_release);
}

inline void store_status(uint64_t* status, uint64_t value) {
  std::atomic_ref(*status).store(value, std::memory_order_relaxed);
}

#endif

// Whether the flag's slice has published that much before so many polls.
#ifdef __CUDACC__
__device__
#endif
    inline bool
    arrives(const Epoch* flag, Epoch awaited, int64_t most_polls) {
  for (int64_t polls = 0; polls < most_polls; ++polls)
    if (load_acquire(flag) >= awaited) return true;
  return false;
}

}  // namespace ulmfit_fast::cuda
