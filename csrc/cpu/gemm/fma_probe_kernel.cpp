#include "fma_probe_kernel.h"

#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

constexpr int kChains = 12;  // independent sums: more than latency times throughput of any x86 so far

// The multiply-adds of multiply_group with everything in registers.
double float32(int64_t rounds) {
  Vec<float> sum[kChains] = {};
  for (int j = 0; j < kChains; ++j) ULMFIT_PIN(sum[j]);  // opaque, or the compiler sees twelve times the same sum
  Vec<float> a = broadcast(0.5f), b = broadcast(0.25f);
  for (int64_t i = 0; i < rounds; ++i) {
    ULMFIT_PIN(a);
    ULMFIT_PIN(b);
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) sum[j] = sum[j] * a + b;
  }
  for (int j = 0; j < kChains; ++j) ULMFIT_PIN(sum[j]);
  return 2.0 * kChains * kLanes<float> * rounds;
}

double bfloat16(int64_t rounds) {
#if defined(__AVX512BF16__)
  Vec<float> sum[kChains] = {};
  for (int j = 0; j < kChains; ++j) ULMFIT_PIN(sum[j]);  // opaque, or the compiler sees twelve times the same sum
  WordVec a = broadcast(0x3E803E80u), b = broadcast(0x3F003F00u);
  for (int64_t i = 0; i < rounds; ++i) {
    ULMFIT_PIN(a);
    ULMFIT_PIN(b);
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) sum[j] = _mm512_dpbf16_ps(sum[j], bit_cast<__m512bh>(a), bit_cast<__m512bh>(b));
  }
  for (int j = 0; j < kChains; ++j) ULMFIT_PIN(sum[j]);
  return 4.0 * kChains * kLanes<float> * rounds;
#else
  return float32(rounds);  // as the kernels do: converted, then multiplied in float32
#endif
}

void read(const std::byte* from, int64_t bytes) {
  constexpr int64_t kStep = 8;  // vectors
  const auto* word = reinterpret_cast<const float*>(from);
  Vec<float> sum[kStep] = {};
  for (int64_t i = 0; i + kStep * kLanes<float> <= bytes / 4; i += kStep * kLanes<float>) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < kStep; ++j) sum[j] += load(word + i + j * kLanes<float>);
  }
  for (Vec<float>& each : sum) ULMFIT_PIN(each);
}

}  // namespace

extern const FmaProbeKernels fma_probe;
const FmaProbeKernels fma_probe = {float32, bfloat16, read};

}  // namespace ulmfit_fast::ULMFIT_ISA
