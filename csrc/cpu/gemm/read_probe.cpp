#include "read_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>

#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "fma_probe_kernel.h"

namespace ulmfit_fast {

double measure_read_bandwidth(int64_t bytes, double seconds) {
  const int64_t threads = torch::stable::get_num_threads(), part = bytes / threads / 4096 * 4096;
  if (part <= 0) throw std::invalid_argument("measure_read_bandwidth: bytes must be at least 4096 a thread");
  const Workspace memory(part * threads);
  std::fill_n(memory.data(), part * threads, std::byte{0});
  const auto read = fma_probe_kernels().read;
  using Clock = std::chrono::steady_clock;
  std::atomic<double> rate{0};
  parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      const std::byte* from = memory.data() + thread * part;
      double best = 0, elapsed = 0;  // of a pass: a thread that waited for a core says nothing about memory
      const auto start = Clock::now();
      while (elapsed < seconds) {
        const auto before = Clock::now();
        read(from, part);
        const auto after = Clock::now();
        best = std::max(best, static_cast<double>(part) / std::chrono::duration<double>(after - before).count());
        elapsed = std::chrono::duration<double>(after - start).count();
      }
      rate.fetch_add(best / static_cast<double>(end - begin));
    }
  });
  return rate.load();
}

}  // namespace ulmfit_fast
