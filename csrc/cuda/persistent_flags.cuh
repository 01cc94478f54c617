// What is atomic about the flags of persistent_flags.h.
#pragma once

#include "persistent_flags.h"
#ifndef __CUDACC__
#include <atomic>
#endif

namespace ulmfit_fast::cuda {

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
  return std::atomic_ref(*const_cast<Epoch*>(flag)).load(std::memory_order_acquire);
}

inline void store_release(Epoch* flag, Epoch value) {
  std::atomic_ref(*flag).store(value, std::memory_order_release);
}

inline void store_status(uint64_t* status, uint64_t value) {
  std::atomic_ref(*status).store(value, std::memory_order_relaxed);
}

#endif

// Whether the flag's slice has published that much before so many polls.
__device__ inline bool arrives(const Epoch* flag, Epoch awaited, int64_t most_polls) {
  for (int64_t polls = 0; polls < most_polls; ++polls) {
    if (load_acquire(flag) >= awaited) return true;
#ifndef __CUDACC__
    if (polls % 256 == 0) cuda_on_host::Fibers::only().let_others_run();
#endif
  }
  return false;
}

}  // namespace ulmfit_fast::cuda
