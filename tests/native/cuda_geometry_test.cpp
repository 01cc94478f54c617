// Launches cover every element, also where there are more than an int counts, and a GPU accepts them.
#include "../../csrc/cuda/geometry.h"
#include "checks.h"

namespace ulmfit_fast {
namespace {

constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;  // of a one-dimensional grid
constexpr int kMostThreads = 1024, kWarp = 32;

static_assert(cuda::kThreads <= kMostThreads && cuda::kThreads % kWarp == 0);
static_assert(cuda::kRowThreads <= kMostThreads && cuda::kRowThreads % kWarp == 0);

void require(bool holds, const char* what, int64_t of) {
  if (holds) return;
  std::fprintf(stderr, "%s does not hold for %ld\n", what, static_cast<long>(of));
  std::exit(1);
}

}  // namespace

void check_cuda_geometry() {
  for (const int64_t threads : {int64_t{0}, int64_t{1}, int64_t{255}, int64_t{256}, int64_t{257}, int64_t{1} << 31,
                                (int64_t{1} << 32) + 1, int64_t{3} << 36}) {
    const int64_t blocks = cuda::blocks_for(threads);
    require(blocks * cuda::kThreads >= threads, "a thread for each element", threads);
    require((blocks - 1) * cuda::kThreads < threads || blocks == 0, "no block too many", threads);
    require(blocks <= kMostBlocks, "a grid that a GPU accepts", threads);
  }
  for (const int64_t classes : {1, 2, 1000, 30'000, 33'278, 267'735, 2'000'000'000}) {
    for (const int64_t bytes : {4, 8}) {
      const int64_t rows = cuda::chunk_rows(classes, bytes);
      require(rows >= 1 && rows <= cuda::kMostRows, "between one and the most rows", classes);
      require(rows == 1 || rows * classes * bytes <= cuda::kLogitBytes, "logits within their memory", classes);
      require(rows == cuda::kMostRows || (rows + 1) * classes * bytes > cuda::kLogitBytes, "no row fewer", classes);
    }
  }
  for (const int64_t columns : {int64_t{1}, int64_t{1550}, int64_t{99'200}, int64_t{1} << 33}) {
    for (const int64_t steps : {1, 31, 63, 64, 5'000, 1'000'000}) {
      const int64_t chunks = cuda::scan_chunks(columns, steps);
      require(chunks >= 1, "a chunk", steps);
      require(chunks == 1 || steps / chunks >= cuda::kLeastScanSteps, "no short chunk", steps);
      require(chunks == 1 || chunks * columns <= cuda::kScanThreads, "no more threads than wanted", columns);
    }
  }
  require(cuda::scan_chunks(1550, 5'000) == 42, "as many chunks as fill the device", 1550);
  require(cuda::scan_chunks(400, 1'000'000) == 163, "as many chunks as fill the device", 400);
}

}  // namespace ulmfit_fast
