// Packed rows regrouped so that chunks of a sequence lie side by side: what a backward pass that stops at chunk
// boundaries may run as one wide batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ulmfit_fast {

// Step s of the regrouped batch holds row s of every chunk that is longer than s, the longest chunks first.
struct Chunks {
  std::vector<int64_t> batch_sizes, offsets;          // [steps] of the regrouped batch
  std::vector<int64_t> storage;                       // [N] where a regrouped row stands in the packed batch
  std::vector<int64_t> sequence, first_step;          // [chunks] its sequence, and the step of it that it begins with
  std::vector<int64_t> sequence_begin, sequence_end;  // [B] the sequence's first and last chunk

  int64_t count() const { return static_cast<int64_t>(sequence.size()); }
};

// Chunks of at most `bptt` steps; `offsets` are the packed batch's.
inline Chunks make_chunks(const int64_t* batch_sizes, const int64_t* offsets, int64_t steps, int64_t bptt) {
  struct Chunk {
    int64_t sequence, first_step, length;
  };
  const int64_t batch = batch_sizes[0];
  std::vector<int64_t> lengths(batch, 0);
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t r = 0; r < batch_sizes[t]; ++r) lengths[r] = t + 1;
  std::vector<Chunk> chunks;
  for (int64_t first = 0; first < steps; first += bptt)
    for (int64_t r = 0; r < batch_sizes[first]; ++r) chunks.push_back({r, first, std::min(bptt, lengths[r] - first)});
  std::stable_sort(chunks.begin(), chunks.end(), [](const Chunk& a, const Chunk& b) { return a.length > b.length; });

  Chunks result;
  result.sequence_begin.resize(batch);
  result.sequence_end.resize(batch);
  for (const Chunk& chunk : chunks) {
    const int64_t index = result.count();
    result.sequence.push_back(chunk.sequence);
    result.first_step.push_back(chunk.first_step);
    if (chunk.first_step == 0) result.sequence_begin[chunk.sequence] = index;
    if (chunk.first_step + chunk.length == lengths[chunk.sequence]) result.sequence_end[chunk.sequence] = index;
  }
  for (int64_t s = 0; s < chunks.front().length; ++s) {
    result.offsets.push_back(static_cast<int64_t>(result.storage.size()));
    for (const Chunk& chunk : chunks) {
      if (chunk.length <= s) break;
      result.storage.push_back(offsets[chunk.first_step + s] + chunk.sequence);
    }
    result.batch_sizes.push_back(static_cast<int64_t>(result.storage.size()) - result.offsets.back());
  }
  return result;
}

}  // namespace ulmfit_fast
