// Memory of the kernels: scratch, what forward saves for backward, large results. Blocks are kept for the next call, as
// fresh memory costs a page fault and a cleared page each time (a profile showed 5 % of a training step in clearing
// them); large pages are asked for, which also spares TLB misses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulmfit_fast {

// At most this much is kept; beyond it blocks are returned to the system, the one just freed last. What is kept beyond
// the second amount is marked as free for the system to take.
constexpr int64_t kKeptBytes = int64_t{4} << 30;
constexpr int64_t kSurelyKeptBytes = int64_t{512} << 20;

class Workspace {
 public:
  enum class Use { kScratch, kResult };  // for the length of a call, or longer

  explicit Workspace(int64_t bytes, Use use = Use::kScratch);  // std::bad_alloc if the system has no more
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::byte* data() const { return data_; }  // 64-byte aligned, contents unspecified

 private:
  std::byte* data_;
  int64_t bytes_;
};

}  // namespace ulmfit_fast
