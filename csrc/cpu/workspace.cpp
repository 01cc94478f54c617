#include "workspace.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace ulmfit_fast {

namespace {
constexpr int64_t kLargePage = 2 << 20;
}

struct Workspace::Block {
  std::byte* data;
  int64_t bytes;
};

// The kept block. Taking it leaves null, so that calls from several threads never share one; no lock, so that a fork in
// the middle of a call leaves the child with nothing worse than an empty place.
static std::atomic<void*> kept{nullptr};

Workspace::Workspace(int64_t bytes) : block_(static_cast<Block*>(kept.exchange(nullptr))) {
  if (block_ != nullptr && block_->bytes >= bytes) return;
  release(block_);
  const int64_t alignment = bytes < kLargePage ? 64 : kLargePage;
  const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded > 0 ? rounded : alignment);
  if (data == nullptr) throw std::bad_alloc();
  advise_large_pages(data, rounded);
  block_ = new Block{static_cast<std::byte*>(data), rounded};
}

Workspace::~Workspace() {
  release(block_->bytes > kKeptBytes ? block_ : static_cast<Block*>(kept.exchange(block_)));
}

void Workspace::release(Block* block) {
  if (block == nullptr) return;
  std::free(block->data);
  delete block;
}

std::byte* Workspace::data() const {
  return block_->data;
}

void advise_large_pages(void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kLargePage - 1) / kLargePage * kLargePage;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kLargePage * kLargePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace ulmfit_fast
