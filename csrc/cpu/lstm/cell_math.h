// exp, sigmoid and tanh on vectors; the last two for common/cell.h. With ULMFIT_SAME_BITS (and no contraction to fused
// multiply-adds) the same operations, and bits, on every instruction set.
#pragma once

#include <cmath>

#include "../gemm/simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

#define ULMFIT_INLINE __attribute__((always_inline)) static inline

// Limits x to [low, high]; NaN stays NaN.
ULMFIT_INLINE Vec<float> clamp(Vec<float> x, float low, float high) {
#if defined(__AVX512F__) && !defined(ULMFIT_SAME_BITS)
  return _mm512_min_ps(broadcast(high), _mm512_max_ps(broadcast(low), x));
#else
  x = x < low ? broadcast(low) : x;
  return x > high ? broadcast(high) : x;
#endif
}

// e^x by Cody-Waite reduction and a degree-6 polynomial; x is clamped to [-87, 88].
ULMFIT_INLINE Vec<float> exp(Vec<float> x) {
  x = clamp(x, -87.0f, 88.0f);
#if defined(__AVX512F__) && !defined(ULMFIT_SAME_BITS)
  const Vec<float> n = _mm512_roundscale_ps(x * 1.44269504088896341f, 0);
#else
  const Vec<float> rounder = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec<float> n = (x * 1.44269504088896341f + rounder) - rounder;
#endif
  const Vec<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec<float> p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__) && !defined(ULMFIT_SAME_BITS)
  return _mm512_scalef_ps(p, n);
#else
  return p * bit_cast<Vec<float>>((__builtin_convertvector(n, IntVec) + 127) << 23);
#endif
}

// float64 serves gradient checks: exactness before speed.
static inline Vec<double> exp(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// 1 / x for x in [1, 1 + e^88], denormals flushed to zero: with AVX-512 14 bits and one Newton step.
ULMFIT_INLINE Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__) && !defined(ULMFIT_SAME_BITS)
  const Vec<float> estimate = _mm512_rcp14_ps(x);
  return estimate * (2.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

struct Math {
  ULMFIT_INLINE Vec<float> sigmoid(Vec<float> x) { return reciprocal(1.0f + exp(-x)); }

  // Polynomial near zero (no cancellation), 1 - 2 / (e^2|x| + 1) elsewhere.
  ULMFIT_INLINE Vec<float> tanh(Vec<float> x) {
    const Vec<float> magnitude = bit_cast<Vec<float>>(bit_cast<WordVec>(x) & 0x7FFFFFFFu);
    const WordVec sign = bit_cast<WordVec>(x) & 0x80000000u;
    const Vec<float> square = x * x;
    Vec<float> p = broadcast(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square + -5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square + -3.33332819422e-1f;
    const Vec<float> near_zero = x + x * square * p;
    const Vec<float> saturating = 1.0f - 2.0f * reciprocal(exp(magnitude + magnitude) + 1.0f);
    return magnitude < 0.625f ? near_zero : bit_cast<Vec<float>>(bit_cast<WordVec>(saturating) | sign);
  }

  static inline Vec<double> sigmoid(Vec<double> x) {
    for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = 1.0 / (1.0 + std::exp(-x[lane]));
    return x;
  }

  static inline Vec<double> tanh(Vec<double> x) {
    for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::tanh(x[lane]);
    return x;
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
