// What the kernels should compute, in double and by the formulas, for kernels_test.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/common/bfloat16.h"
#include "../../csrc/cpu/runtime/team.h"

namespace ulmfit_fast {

struct Problem {
  std::vector<int64_t> batch_sizes;
  int64_t input, hidden, projection;  // projection 0: none
  bool reverse;
  double p;
  Grid grid;
  int threads;
  bool pooled = false;  // states pooled and not kept; their gradient comes from the pooled state
  int64_t bptt = 0;     // gradients stop at multiples of it
};

inline double to_double(float value) {
  return value;
}
inline double to_double(double value) {
  return value;
}
inline double to_double(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

template <typename E>
E from_double(double value) {
  if constexpr (std::is_same_v<E, Bfloat16>) {
    const float narrow = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof(bits));
    return {static_cast<uint16_t>((bits + 0x8000) >> 16)};
  } else {
    return static_cast<E>(value);
  }
}

// A vector on the heap, exactly as long as it should be, so that the sanitizers see every step beyond it.
template <typename E>
std::vector<E> random_values(std::mt19937& generator, int64_t count, double scale) {
  std::uniform_real_distribution<double> uniform(-scale, scale);
  std::vector<E> values(count);
  for (E& value : values) value = from_double<E>(uniform(generator));
  return values;
}

template <typename E>
std::vector<double> doubles(const std::vector<E>& values) {
  std::vector<double> result;
  for (const E& value : values) result.push_back(to_double(value));
  return result;
}

inline double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// All of it, in double, by the formulas.
struct Expected {
  std::vector<double> output, h_n, c_n, grad_input, grad_h0, grad_c0, grad_weight_ih, grad_weight_hh, grad_bias;
};

struct Arguments {
  std::vector<double> input, h0, c0, weight_ih, weight_hh, weight_hr, bias, grad_output, grad_h_n, grad_c_n;
};

struct Sizes {
  explicit Sizes(const Problem& problem)
      : steps(static_cast<int64_t>(problem.batch_sizes.size())),
        batch(problem.batch_sizes[0]),
        input(problem.input),
        hidden(problem.hidden),
        output(problem.projection > 0 ? problem.projection : problem.hidden) {
    for (const int64_t size : problem.batch_sizes) {
      offsets.push_back(rows);
      rows += size;
    }
  }
  int64_t steps, batch, input, hidden, output, rows = 0;
  std::vector<int64_t> offsets;
};

inline Expected compute(const Problem& problem, const Arguments& a) {
  const Sizes s(problem);
  const int64_t H = s.hidden, P = s.output, F = s.input;
  std::vector<double> weight_hh = a.weight_hh;
  std::vector<double> factor(weight_hh.size(), 1.0);
  if (problem.p > 0) {
    for (size_t j = 0; j < factor.size(); ++j) {
      uint32_t bits[4];
      philox4x32(7, j / 4, bits);
      factor[j] = bits[j % 4] >= keep_threshold(problem.p) ? 1 / (1 - problem.p) : 0;
      weight_hh[j] *= factor[j];
    }
  }
  Expected e;
  e.output.assign(s.rows * P, 0);
  e.c_n = a.c0;
  std::vector<double> h = a.h0, gates(s.rows * 4 * H), cells(s.rows * H), previous_h(s.rows * P),
                      previous_c(s.rows * H);
  const auto step_at = [&](int64_t step) { return problem.reverse ? s.steps - 1 - step : step; };
  for (int64_t step = 0; step < s.steps; ++step) {
    const int64_t t = step_at(step);
    for (int64_t r = 0; r < problem.batch_sizes[t]; ++r) {
      const int64_t n = s.offsets[t] + r;
      std::copy_n(&h[r * P], P, &previous_h[n * P]);
      std::copy_n(&e.c_n[r * H], H, &previous_c[n * H]);
      std::vector<double> cell_output(H);
      for (int64_t u = 0; u < H; ++u) {
        double value[4];
        for (int64_t gate = 0; gate < 4; ++gate) {
          const int64_t row = gate * H + u;
          value[gate] = a.bias[row];
          for (int64_t k = 0; k < F; ++k) value[gate] += a.input[n * F + k] * a.weight_ih[row * F + k];
          for (int64_t k = 0; k < P; ++k) value[gate] += previous_h[n * P + k] * weight_hh[row * P + k];
          value[gate] = gate == 2 ? std::tanh(value[gate]) : sigmoid(value[gate]);
          gates[n * 4 * H + row] = value[gate];
        }
        const double c = value[1] * previous_c[n * H + u] + value[0] * value[2];
        cells[n * H + u] = e.c_n[r * H + u] = c;
        cell_output[u] = value[3] * std::tanh(c);
      }
      for (int64_t k = 0; k < P; ++k) {
        double value = problem.projection > 0 ? 0 : cell_output[k];
        for (int64_t u = 0; problem.projection > 0 && u < H; ++u) value += cell_output[u] * a.weight_hr[k * H + u];
        h[r * P + k] = e.output[n * P + k] = value;
      }
    }
  }
  e.h_n = h;
  e.grad_input.assign(s.rows * F, 0);
  e.grad_weight_ih.assign(4 * H * F, 0);
  e.grad_weight_hh.assign(4 * H * P, 0);
  e.grad_bias.assign(4 * H, 0);
  e.grad_h0 = a.grad_h_n;  // running gradients of h and c
  e.grad_c0 = a.grad_c_n;
  for (int64_t step = s.steps - 1; step >= 0; --step) {
    const int64_t t = step_at(step);
    for (int64_t r = 0; r < problem.batch_sizes[t]; ++r) {
      const int64_t n = s.offsets[t] + r;
      std::vector<double> grad_h(P), grad_a(4 * H), next_h(P, 0);
      for (int64_t k = 0; k < P; ++k) grad_h[k] = e.grad_h0[r * P + k] + a.grad_output[n * P + k];
      for (int64_t u = 0; u < H; ++u) {
        double grad = problem.projection > 0 ? 0 : grad_h[u];
        for (int64_t k = 0; problem.projection > 0 && k < P; ++k) grad += grad_h[k] * a.weight_hr[k * H + u];
        const double* g = &gates[n * 4 * H];
        const double i = g[u], f = g[H + u], gg = g[2 * H + u], o = g[3 * H + u], th = std::tanh(cells[n * H + u]);
        const double grad_c = e.grad_c0[r * H + u] + grad * o * (1 - th * th);
        grad_a[u] = grad_c * gg * i * (1 - i);
        grad_a[H + u] = grad_c * previous_c[n * H + u] * f * (1 - f);
        grad_a[2 * H + u] = grad_c * i * (1 - gg * gg);
        grad_a[3 * H + u] = grad * th * o * (1 - o);
        e.grad_c0[r * H + u] = grad_c * f;
      }
      for (int64_t row = 0; row < 4 * H; ++row) {
        e.grad_bias[row] += grad_a[row];
        for (int64_t k = 0; k < F; ++k) {
          e.grad_input[n * F + k] += grad_a[row] * a.weight_ih[row * F + k];
          e.grad_weight_ih[row * F + k] += grad_a[row] * a.input[n * F + k];
        }
        for (int64_t k = 0; k < P; ++k) {
          next_h[k] += grad_a[row] * weight_hh[row * P + k];
          e.grad_weight_hh[row * P + k] += grad_a[row] * previous_h[n * P + k] * factor[row * P + k];
        }
      }
      std::copy_n(next_h.data(), P, &e.grad_h0[r * P]);
      if (problem.bptt == 0 || t == 0 || t % problem.bptt != 0) continue;
      std::fill_n(&e.grad_h0[r * P], P, 0);
      std::fill_n(&e.grad_c0[r * H], H, 0);
    }
  }
  return e;
}

// What flows into every state from a pooled state, by the definition.
template <typename Acc>
void add_pool_gradient(std::vector<double>& grad_output, const Sizes& s, const Problem& problem,
                       const std::vector<Acc>& total, const std::vector<Acc>& maximum,
                       const std::vector<int32_t>& argmax, const std::vector<int64_t>& first_step,
                       const std::vector<int64_t>& pool_from) {
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t r = 0; r < problem.batch_sizes[t]; ++r) {
      if (first_step[r] + t < pool_from[r]) continue;
      for (int64_t k = 0; k < s.output; ++k) {
        double& grad = grad_output[(s.offsets[t] + r) * s.output + k];
        grad += total[r * s.output + k];
        if (argmax[r * s.output + k] == first_step[r] + t) grad += maximum[r * s.output + k];
      }
    }
  }
}

}  // namespace ulmfit_fast
