// Philox4x32-10 (Salmon et al., SC 2011): counter-based random bits, the same on every device, layout and thread count.
//
// `static` gives each translation unit its own copy: CPU kernels are compiled once per instruction set, and the linker
// must never hand AVX-512 code to the portable build.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ULMFIT_HOST_DEVICE __host__ __device__
#else
#define ULMFIT_HOST_DEVICE
#endif

// For inline members of types that all builds share.
#define ULMFIT_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace ulmfit_fast {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// bits[0..3] = philox4x32_10(key = seed, counter = index); the high half of the 128-bit counter is zero.
ULMFIT_HOST_DEVICE static inline void philox4x32(uint64_t seed, uint64_t index, uint32_t bits[4]) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * c0;
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * c2;
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c0 = next0;
    c1 = static_cast<uint32_t>(product1);
    c2 = next2;
    c3 = static_cast<uint32_t>(product0);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  bits[0] = c0;
  bits[1] = c1;
  bits[2] = c2;
  bits[3] = c3;
}

// A weight is kept where its 32 bits are >= p * 2^32; as bits are whole numbers, that is >= the ceiling of it.
static inline uint64_t keep_threshold(double p) {
  return static_cast<uint64_t>(std::ceil(p * 4294967296.0));
}

// DropConnect of a row-major [rows, columns] weight: what a kernel needs to know to mask it.
struct DropConnect {
  double p = 0.0;  // drop probability; 0 turns the mask off
  uint64_t seed = 0;

  ULMFIT_ALWAYS_INLINE bool enabled() const { return p > 0.0; }
  ULMFIT_ALWAYS_INLINE double scale() const { return 1.0 / (1.0 - p); }
};

}  // namespace ulmfit_fast
