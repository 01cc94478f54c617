// Memory of the kernels: scratch, what forward saves for backward, large results. Blocks are kept for the next call, as
// fresh memory costs a page fault and a cleared page each time (measured: a tenth and more of a training step); large
// pages are asked for, which also spares TLB misses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulmfit_fast {

// At most this much is kept; beyond it the oldest is returned to the system.
constexpr int64_t kKeptBytes = int64_t{512} << 20;

class Workspace {
 public:
  explicit Workspace(int64_t bytes);  // std::bad_alloc if the system has no more
  ~Workspace();
  Workspace(Workspace&& other) noexcept;
  Workspace& operator=(Workspace&&) = delete;

  std::byte* data() const { return data_; }  // 64-byte aligned, contents unspecified

 private:
  std::byte* data_;
  int64_t bytes_;
};

}  // namespace ulmfit_fast
