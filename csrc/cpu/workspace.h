// Scratch memory of the kernels. The last block is kept for the next call, as fresh memory costs a page fault every 4 KB
// (measured: up to a tenth of a short sequence's time); large pages are asked for, which also spares TLB misses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulmfit_fast {

class Workspace {
 public:
  static constexpr int64_t kKeptBytes = int64_t{128} << 20;  // a larger block is returned to the system

  explicit Workspace(int64_t bytes);  // std::bad_alloc if the system has no more
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::byte* data() const;  // 64-byte aligned, contents unspecified

 private:
  struct Block;
  static void release(Block* block);
  Block* block_;
};

// Asks the system to back this memory, not touched yet, by large pages. A hint: nothing happens where it is refused.
void advise_large_pages(void* data, int64_t bytes);

}  // namespace ulmfit_fast
