// Sizes of launches and of buffers on CUDA: plain functions, tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast::cuda {

constexpr int kThreads = 256;                        // of a block where each thread works alone
constexpr int kRowThreads = 512;                     // of a block that owns a row of logits
constexpr int64_t kLogitBytes = int64_t{512} << 20;  // of the rows whose logits are held at a time
constexpr int64_t kMostRows = 4096;                  // of them

constexpr int64_t blocks_for(int64_t threads) {
  return (threads + kThreads - 1) / kThreads;
}

// Rows whose logits are held at a time.
constexpr int64_t chunk_rows(int64_t classes, int64_t logit_bytes) {
  return std::clamp(kLogitBytes / (classes * logit_bytes), int64_t{1}, kMostRows);
}

}  // namespace ulmfit_fast::cuda
