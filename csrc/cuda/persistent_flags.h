// How the blocks of a persistent launch tell each other that their part of h is there.
//
// Each slice of a group has a flag, which only its block writes: the number of steps that it has published. A step is
//
//   wait until every other slice that h is read from has published the step before    (acquire)
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

// Polls before a wait is given up: a second or more, as each takes half a microsecond at least.
constexpr int64_t kMostPolls = int64_t{1} << 21;

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

}  // namespace ulmfit_fast::cuda
