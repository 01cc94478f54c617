#include "workspace.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

namespace ulmfit_fast {
namespace {

constexpr int64_t kLargePage = 2 << 20;

struct Block {
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

// A place for one block. Taking and putting never wait: a place that is being looked at counts as empty or as full, so
// that threads share no lock, and a fork in the middle of a call leaves the child with nothing worse than a lost block.
class Place {
 public:
  // The block, if there is one of `least` to `most` bytes; else none.
  Block take(int64_t least, int64_t most) {
    Block block;
    if (busy_.test_and_set(std::memory_order_acquire)) return block;
    if (block_.bytes >= least && block_.bytes <= most) std::swap(block, block_);
    busy_.clear(std::memory_order_release);
    return block;
  }

  bool put(Block block) {
    if (busy_.test_and_set(std::memory_order_acquire)) return false;
    const bool empty = block_.data == nullptr;
    if (empty) block_ = block;
    busy_.clear(std::memory_order_release);
    return empty;
  }

 private:
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  Block block_;
};

std::array<Place, 256> places;
std::atomic<int64_t> kept_bytes{0};

Block allocate(int64_t bytes) {
  void* data = std::aligned_alloc(bytes < kLargePage ? 64 : kLargePage, bytes);
  if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (bytes >= kLargePage) madvise(data, bytes, MADV_HUGEPAGE);  // a hint
#endif
  return {static_cast<std::byte*>(data), bytes};
}

// Sizes go in steps of an eighth of a power of two, so that blocks for a little more or less are the same.
int64_t round_up(int64_t bytes) {
  int64_t unit = bytes < kLargePage ? 4096 : kLargePage;
  while (unit * 16 < bytes) unit *= 2;
  return bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
}

Block take(int64_t bytes, Workspace::Use use) {
  const int64_t rounded = round_up(bytes);
  // The same size, or a little more. A result that lives long must not hold a block far larger than itself; scratch is
  // soon given back, and takes the smallest of any that fit.
  for (const int64_t most : {rounded, rounded + rounded / 4, 2 * rounded, 4 * rounded, kKeptBytes}) {
    if (use == Workspace::Use::kResult && most > 2 * rounded) break;
    for (Place& place : places) {
      const Block block = place.take(rounded, most);
      if (block.data == nullptr) continue;
      kept_bytes -= block.bytes;
      return block;
    }
  }
  return allocate(rounded);
}

void discard(Block block) {
  kept_bytes -= block.bytes;
  std::free(block.data);
}

void give_back(Block block) {
  if (block.bytes > kKeptBytes) return std::free(block.data);
  kept_bytes += block.bytes;
  // What was freed last will be wanted first: others make room.
  for (Place& place : places) {
    if (kept_bytes <= kKeptBytes) break;
    discard(place.take(1, kKeptBytes));
  }
  if (kept_bytes <= kKeptBytes) {
#ifdef MADV_FREE
    // The system may take the pages back when it runs short; until then nothing is cleared.
    if (kept_bytes > kSurelyKeptBytes && block.bytes >= kLargePage) madvise(block.data, block.bytes, MADV_FREE);
#endif
    for (Place& place : places)
      if (place.put(block)) return;
    discard(places[0].take(1, kKeptBytes));
    if (places[0].put(block)) return;
  }
  discard(block);
}

}  // namespace

Workspace::Workspace(int64_t bytes, Use use) {
  const Block block = take(bytes, use);
  data_ = block.data;
  bytes_ = block.bytes;
}

Workspace::~Workspace() {
  give_back({data_, bytes_});
}

}  // namespace ulmfit_fast
