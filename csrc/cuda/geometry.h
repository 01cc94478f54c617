// Sizes of launches and of buffers on CUDA: plain functions, tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ulmfit_fast::cuda {

constexpr int kThreads = 256;                        // of a block where each thread works alone
constexpr int kRowThreads = 512;                     // of a block that owns a row of logits
constexpr int64_t kLogitBytes = int64_t{512} << 20;  // of the rows whose logits are held at a time
constexpr int64_t kMostRows = 4096;                  // of them
constexpr int64_t kScanThreads = 1 << 16;            // below which a scan over time is cut into chunks
constexpr int64_t kLeastScanSteps = 32;              // of a chunk

constexpr int64_t blocks_for(int64_t threads) {
  return (threads + kThreads - 1) / kThreads;
}

// Rows whose logits are held at a time.
constexpr int64_t chunk_rows(int64_t classes, int64_t logit_bytes) {
  return std::clamp(kLogitBytes / (classes * logit_bytes), int64_t{1}, kMostRows);
}

// Into how many chunks the steps of a scan over `columns` are cut, so that there are threads enough to fill a device:
// as many as that takes, none shorter than 32 steps. It costs reading everything twice.
constexpr int64_t scan_chunks(int64_t columns, int64_t steps) {
  return std::max(std::min(kScanThreads / std::max(columns, int64_t{1}), steps / kLeastScanSteps), int64_t{1});
}

}  // namespace ulmfit_fast::cuda
