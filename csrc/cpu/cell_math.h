// sigmoid and tanh on vectors, for common/cell.h.
#pragma once

#include <cmath>

#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

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
  return p * bit_cast<Vec<float>>((__builtin_convertvector(n, IntVec) + 127) << 23);
}

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

}  // namespace ulmfit_fast::ULMFIT_ISA
