// How fast this core multiplies and adds, and reads: the limits that benchmarks measure kernels against. Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ulmfit_fast {

struct FmaProbeKernels {
  // Runs `rounds` rounds of independent multiply-adds in registers; returns the floating-point operations done.
  double (*float32)(int64_t rounds);
  double (*bfloat16)(int64_t rounds);
  // Reads memory, whole cache lines.
  void (*read)(const std::byte* from, int64_t bytes);
};

// The kernels of the instruction set in use.
const FmaProbeKernels& fma_probe_kernels();

}  // namespace ulmfit_fast
