// Vectors of the instruction set this file is compiled for, and the few functions the kernels need on them.
//
// Built on the compiler's vector extension: one source serves AVX-512, AVX2 and plain SSE2. Everything is `static` or
// inside the instruction set's own namespace, so that no two builds share a symbol (see philox.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define ULMFIT_ISA avx512
#define ULMFIT_VECTOR_BYTES 64
#define ULMFIT_TILE_ROWS 6  // 6 x 4 accumulators + 4 weights + 1 broadcast of 32 registers
#elif defined(__AVX2__)
#define ULMFIT_ISA avx2
#define ULMFIT_VECTOR_BYTES 32
#define ULMFIT_TILE_ROWS 3  // 3 x 4 accumulators + 3 broadcasts + 1 weight of 16 registers
#else
#define ULMFIT_ISA portable
#define ULMFIT_VECTOR_BYTES 16
#define ULMFIT_TILE_ROWS 3
#endif

namespace ulmfit_fast::ULMFIT_ISA {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(ULMFIT_VECTOR_BYTES)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
typedef int32_t IntVec __attribute__((vector_size(ULMFIT_VECTOR_BYTES)));

template <typename T>
constexpr int kLanes = ULMFIT_VECTOR_BYTES / sizeof(T);

template <typename T>
static inline Vec<T> load(const T* from) {
  Vec<T> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
static inline void store(T* to, Vec<T> value) {
  std::memcpy(to, &value, sizeof(value));
}

// The first `count` lanes; the rest read as zero and are never written.
template <typename T>
static inline Vec<T> load(const T* from, int64_t count) {
  if (count >= kLanes<T>) return load(from);
  Vec<T> value = {};
  std::memcpy(&value, from, count * sizeof(T));
  return value;
}

template <typename T>
static inline void store(T* to, Vec<T> value, int64_t count) {
  if (count >= kLanes<T>) return store(to, value);
  std::memcpy(to, &value, count * sizeof(T));
}

template <typename T>
static inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// e^x by Cody-Waite reduction and a degree-6 polynomial; x is clamped to [-87, 88]. NaN stays NaN.
static inline Vec<float> exp(Vec<float> x) {
  x = x < -87.0f ? broadcast(-87.0f) : x;
  x = x > 88.0f ? broadcast(88.0f) : x;
  const Vec<float> rounder = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec<float> n = (x * 1.44269504088896341f + rounder) - rounder;
  const Vec<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec<float> p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  Vec<float> power;
  std::memcpy(&power, &exponent, sizeof(power));
  return p * power;
}

// The cell's non-linearities, for common/cell.h.
struct Math {
  static inline Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exp(-x)); }

  // Polynomial near zero (no cancellation), 1 - 2 / (e^2|x| + 1) elsewhere.
  static inline Vec<float> tanh(Vec<float> x) {
    const Vec<float> magnitude = x < 0.0f ? -x : x;
    const Vec<float> square = x * x;
    Vec<float> p = broadcast(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square + -5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square + -3.33332819422e-1f;
    const Vec<float> near_zero = x + x * square * p;
    const Vec<float> saturating = 1.0f - 2.0f / (exp(magnitude + magnitude) + 1.0f);
    const Vec<float> signed_saturating = x < 0.0f ? -saturating : saturating;
    return magnitude < 0.625f ? near_zero : signed_saturating;
  }

  // float64 serves gradient checks: exactness before speed.
  static inline Vec<double> sigmoid(Vec<double> x) {
    for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = 1.0 / (1.0 + std::exp(-x[lane]));
    return x;
  }

  static inline Vec<double> tanh(Vec<double> x) {
    for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::tanh(x[lane]);
    return x;
  }
};

// Round to the nearest bfloat16 (ties to even), kept as float. NaN stays NaN.
static inline Vec<float> round_to_bfloat16(Vec<float> x) {
  IntVec bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & static_cast<int32_t>(0xFFFF0000);
  Vec<float> rounded;
  std::memcpy(&rounded, &bits, sizeof(rounded));
  return x == x ? rounded : x;
}

static inline Vec<double> round_to_bfloat16(Vec<double> x) {
  return x;
}

}  // namespace ulmfit_fast::ULMFIT_ISA
