#include "fma_probe.h"

#include <atomic>
#include <chrono>
#include <stdexcept>

#include "../runtime/parallel.h"
#include "fma_probe_kernel.h"

namespace ulmfit_fast {

double measure_fma_peak(const std::string& dtype, double seconds) {
  if (dtype != "float32" && dtype != "bfloat16")
    throw std::invalid_argument("measure_fma_peak: dtype must be float32 or bfloat16, got " + dtype);
  const FmaProbeKernels& kernels = fma_probe_kernels();
  const auto probe = dtype == "float32" ? kernels.float32 : kernels.bfloat16;
  constexpr int64_t kRounds = 100'000;  // about 0.3 ms
  using Clock = std::chrono::steady_clock;
  std::atomic<double> rate{0};
  parallel_for(torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      double operations = 0, elapsed = 0;
      const auto start = Clock::now();
      while (elapsed < seconds) {
        operations += probe(kRounds);
        elapsed = std::chrono::duration<double>(Clock::now() - start).count();
      }
      rate.fetch_add(operations / elapsed / static_cast<double>(end - begin));
    }
  });
  return rate.load();
}

}  // namespace ulmfit_fast
