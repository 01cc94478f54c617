// The CPU kernels without torch: sizes that no block divides, every grid, against plain loops in double. Meant to run
// under the sanitizers (`make native-test`); exits 1 at the first difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/chunks.h"
#include "../../csrc/cpu/dispatch.h"
#include "../../csrc/cpu/dropconnect_kernel.h"
#include "../../csrc/cpu/lstm_kernel.h"
#include "../../csrc/cpu/workspace.h"

using namespace ulmfit_fast;

namespace {

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

double to_double(float value) {
  return value;
}
double to_double(double value) {
  return value;
}
double to_double(Bfloat16 value) {
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

double sigmoid(double x) {
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

Expected compute(const Problem& problem, const Arguments& a) {
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

template <typename E>
void require_near(const char* name, const std::vector<E>& ours, const std::vector<double>& expected, double tolerance) {
  double largest = 1;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t j = 0; j < expected.size(); ++j) {
    if (std::abs(to_double(ours[j]) - expected[j]) <= tolerance * largest) continue;
    std::fprintf(stderr, "%s[%zu]: %g, expected %g\n", name, j, to_double(ours[j]), expected[j]);
    std::exit(1);
  }
}

template <typename Args, typename Kernel>
void run_team(const Args& args, int threads, Kernel kernel) {
  Barrier barrier(args.grid.slices());
  std::vector<std::thread> team;
  for (int index = 0; index < threads; ++index) {
    const Range slices(args.grid.slices(), index, threads);
    if (slices.count() > 0)
      team.emplace_back([&, slices] { kernel(args, Member(barrier, slices.first, slices.last)); });
  }
  for (std::thread& member : team) member.join();
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

// Sum, maximum and its step over the states that the kernel itself computed.
template <typename E, typename Acc>
void require_pooled(const Problem& problem, const Sizes& s, const std::vector<E>& output,
                    const std::vector<int64_t>& first_step, const std::vector<int64_t>& pool_from,
                    const std::vector<double>& total, const std::vector<Acc>& maximum,
                    const std::vector<int32_t>& argmax) {
  for (int64_t r = 0; r < s.batch; ++r) {
    for (int64_t k = 0; k < s.output; ++k) {
      double sum = 0;
      Acc largest = -INFINITY;
      int64_t at = -1;
      for (int64_t t = 0; t < s.steps && r < problem.batch_sizes[t]; ++t) {
        const auto state = static_cast<Acc>(to_double(output[(s.offsets[t] + r) * s.output + k]));
        if (first_step[r] + t < pool_from[r]) continue;
        sum += state;
        if (state > largest) at = first_step[r] + t;
        largest = std::max(largest, state);
      }
      const int64_t j = r * s.output + k;
      if (total[j] == sum && maximum[j] == largest && argmax[j] == at) continue;
      std::fprintf(stderr, "row %ld, unit %ld pooled to %g, %g at %d; expected %g, %g at %ld\n", static_cast<long>(r),
                   static_cast<long>(k), double(total[j]), double(maximum[j]), argmax[j], double(sum), double(largest),
                   static_cast<long>(at));
      std::exit(1);
    }
  }
}

template <typename E>
void check(const Problem& problem, double tolerance) {
  using Acc = Accumulator<E>;
  const Sizes s(problem);
  const int64_t gates = 4 * s.hidden;
  std::mt19937 generator(1);
  const auto input = random_values<E>(generator, s.rows * s.input, 1),
             h0 = random_values<E>(generator, s.batch * s.output, 1);
  const auto weight_ih = random_values<E>(generator, gates * s.input, 0.3);
  const auto weight_hh = random_values<E>(generator, gates * s.output, 0.3);
  const auto weight_hr = random_values<E>(generator, problem.projection * s.hidden, 0.3);
  const auto grad_output = random_values<E>(generator, s.rows * s.output, 1);
  const auto grad_h_n = random_values<E>(generator, s.batch * s.output, 1);
  const auto c0 = random_values<Acc>(generator, s.batch * s.hidden, 1), bias = random_values<Acc>(generator, gates, 1);
  const auto grad_c_n = random_values<Acc>(generator, s.batch * s.hidden, 1);

  std::vector<int64_t> first_step(s.batch), pool_from(s.batch);
  for (int64_t r = 0; r < s.batch; ++r) {
    first_step[r] = 3 + r % 4;
    pool_from[r] = r % 3 == 0 ? 0 : first_step[r] + r % 2;
  }
  std::vector<double> total(s.batch * s.output, 0);
  std::vector<Acc> maximum(s.batch * s.output, -INFINITY);
  std::vector<int32_t> argmax(s.batch * s.output, -1);
  const auto grad_total = random_values<Acc>(generator, total.size(), 1);
  const auto grad_maximum = random_values<Acc>(generator, total.size(), 1);

  std::vector<E> output(s.rows * s.output), saved_gates(s.rows * gates), grad_input(s.rows * s.input);
  std::vector<E> grad_h(problem.projection > 0 ? s.rows * s.output : 0);
  std::vector<E> grad_weight_ih(weight_ih.size()), grad_weight_hh(weight_hh.size()), grad_bias(gates);
  std::vector<E> h_n(s.batch * s.output);
  std::vector<Acc> cells(s.rows * s.hidden), c = c0;
  const LstmSizes sizes{s.steps,
                        s.rows,
                        s.batch,
                        s.input,
                        s.hidden,
                        s.output,
                        problem.projection > 0,
                        problem.reverse,
                        problem.batch_sizes.data(),
                        s.offsets.data()};
  const DropConnect dropconnect{problem.p, 7};
  const LstmKernels<E>& kernels = lstm_kernels<E>();

  LstmForward<E> forward{};
  forward.sizes = sizes;
  forward.dropconnect = dropconnect;
  forward.grid = problem.grid;
  forward.input = input.data();
  forward.h0 = h0.data();
  forward.weight_ih = weight_ih.data();
  forward.weight_hh = weight_hh.data();
  forward.weight_hr = problem.projection > 0 ? weight_hr.data() : nullptr;
  forward.bias = bias.data();
  forward.keep_output = true;
  forward.output = output.data();
  forward.h_n = h_n.data();
  forward.gates = saved_gates.data();
  forward.cells = cells.data();
  forward.c = c.data();
  {
    std::vector<std::byte> scratch(kernels.forward_scratch(forward) + 64);  // exact, unlike a kept block
    forward.scratch = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
    run_team(forward, problem.threads, kernels.forward);
    if (problem.pooled) {  // again, the states going nowhere but into the pool
      std::vector<E> two_steps(2 * s.batch * s.output);
      c = c0;
      forward.keep_output = false;
      forward.output = two_steps.data();
      forward.pool = {total.data(), maximum.data(), argmax.data(), first_step.data(), pool_from.data()};
      run_team(forward, problem.threads, kernels.forward);
      require_pooled(problem, s, output, first_step, pool_from, total, maximum, argmax);
    }
  }
  std::vector<double> grad_states = doubles(grad_output);
  if (problem.pooled) {
    std::fill(grad_states.begin(), grad_states.end(), 0);
    add_pool_gradient(grad_states, s, problem, grad_total, grad_maximum, argmax, first_step, pool_from);
  }
  const Expected expected =
      compute(problem, {doubles(input), doubles(h0), doubles(c0), doubles(weight_ih), doubles(weight_hh),
                        doubles(weight_hr), doubles(bias), grad_states, doubles(grad_h_n), doubles(grad_c_n)});
  require_near("output", output, expected.output, tolerance);
  require_near("h_n", h_n, expected.h_n, tolerance);
  require_near("c_n", c, expected.c_n, tolerance);

  // Chunks start from the states that the step before them left.
  const Chunks chunks =
      make_chunks(problem.batch_sizes.data(), s.offsets.data(), s.steps, problem.bptt > 0 ? problem.bptt : s.steps);
  std::vector<E> start_h, end_grad_h(chunks.count() * s.output);
  std::vector<Acc> start_c, grad_c(chunks.count() * s.hidden);
  std::vector<int64_t> chunk_step, chunk_from;
  for (int64_t q = 0; q < chunks.count(); ++q) {
    const int64_t r = chunks.sequence[q], step = chunks.first_step[q];
    const E* h = step == 0 ? &h0[r * s.output] : &output[(s.offsets[step - 1] + r) * s.output];
    const Acc* cell = step == 0 ? &c0[r * s.hidden] : &cells[(s.offsets[step - 1] + r) * s.hidden];
    start_h.insert(start_h.end(), h, h + s.output);
    start_c.insert(start_c.end(), cell, cell + s.hidden);
    chunk_step.push_back(first_step[r] + step);
    chunk_from.push_back(pool_from[r]);
  }
  for (int64_t r = 0; r < s.batch; ++r) {
    std::copy_n(&grad_h_n[r * s.output], s.output, &end_grad_h[chunks.sequence_end[r] * s.output]);
    std::copy_n(&grad_c_n[r * s.hidden], s.hidden, &grad_c[chunks.sequence_end[r] * s.hidden]);
  }
  std::vector<E> grad_h0(chunks.count() * s.output);

  LstmBackward<E> backward{};
  backward.sizes = sizes;
  backward.sizes.steps = static_cast<int64_t>(chunks.batch_sizes.size());
  backward.sizes.batch = chunks.count();
  backward.sizes.batch_sizes = chunks.batch_sizes.data();
  backward.sizes.offsets = chunks.offsets.data();
  backward.storage = chunks.storage.data();
  if (problem.pooled)
    backward.pool = {grad_total.data(),      grad_maximum.data(), argmax.data(),
                     chunks.sequence.data(), chunk_step.data(),   chunk_from.data()};
  backward.dropconnect = dropconnect;
  backward.grid = problem.grid;
  backward.input = input.data();
  backward.h0 = start_h.data();
  backward.c0 = start_c.data();
  backward.weight_ih = weight_ih.data();
  backward.weight_hh = weight_hh.data();
  backward.weight_hr = forward.weight_hr;
  backward.output = output.data();
  backward.gates = saved_gates.data();
  backward.cells = cells.data();
  backward.grad_output = problem.pooled ? nullptr : grad_output.data();
  backward.grad_h_n = end_grad_h.data();
  backward.grad_c = grad_c.data();
  backward.grad_h = problem.projection > 0 ? grad_h.data() : nullptr;
  backward.grad_h0 = grad_h0.data();
  backward.grad_input = grad_input.data();
  backward.grad_weight_ih = grad_weight_ih.data();
  backward.grad_weight_hh = grad_weight_hh.data();
  backward.grad_bias = grad_bias.data();
  {
    const Workspace workspace(kernels.backward_scratch(backward));
    backward.scratch = workspace.data();
    run_team(backward, problem.threads, kernels.backward);
  }
  require_near("grad_input", grad_input, expected.grad_input, tolerance);
  std::vector<E> first_grad_h0;
  std::vector<Acc> first_grad_c;
  for (const int64_t q : chunks.sequence_begin) {
    first_grad_h0.insert(first_grad_h0.end(), &grad_h0[q * s.output], &grad_h0[q * s.output] + s.output);
    first_grad_c.insert(first_grad_c.end(), &grad_c[q * s.hidden], &grad_c[q * s.hidden] + s.hidden);
  }
  require_near("grad_h0", first_grad_h0, expected.grad_h0, tolerance);
  require_near("grad_c0", first_grad_c, expected.grad_c0, tolerance);
  require_near("grad_weight_ih", grad_weight_ih, expected.grad_weight_ih, tolerance);
  require_near("grad_weight_hh", grad_weight_hh, expected.grad_weight_hh, tolerance);
  require_near("grad_bias", grad_bias, expected.grad_bias, tolerance);
}

// Blocks of an earlier size must not keep those of the present one from being kept.
void check_kept_memory() {
  const auto use = [](int64_t megabytes) { return Workspace(megabytes << 20).data(); };
  use(400);
  const std::byte* first = use(200);
  if (use(200) == first) return;
  std::fprintf(stderr, "a block that was just given back is not used again\n");
  std::exit(1);
}

}  // namespace

int main() {
  check_kept_memory();
  const Problem problems[] = {
      {{1}, 1, 1, 0, false, 0.0, {1, 1}, 1},
      {{3, 2, 1}, 5, 7, 0, false, 0.5, {1, 1}, 1},
      {{9, 9, 4, 1, 1}, 3, 33, 0, true, 0.3, {1, 2}, 2},
      {{7, 7, 7, 2}, 17, 19, 5, false, 0.5, {1, 2}, 2},
      {{13, 13, 6, 5}, 18, 35, 9, true, 0.0, {2, 2}, 4},
      {{20, 20, 14, 7}, 11, 50, 0, false, 0.4, {3, 2}, 4},              // fewer threads than slices
      {std::vector<int64_t>(140, 5), 9, 21, 0, false, 0.2, {1, 2}, 2},  // more rows than a chunk of either kind
      {{2, 2}, 70, 80, 0, false, 0.5, {1, 3}, 3},
      {{5, 4, 4, 2, 1, 1, 1}, 6, 19, 0, false, 0.3, {1, 2}, 2, true, 3},
      {{9, 9, 8, 8, 3}, 6, 37, 0, false, 0.3, {2, 2}, 4, true, 2},
      {{6, 6, 5, 2}, 9, 21, 0, false, 0.0, {1, 1}, 1, false, 1},
  };
  for (const Problem& problem : problems) {
    check<float>(problem, 2e-5);
    check<double>(problem, 1e-12);
    check<Bfloat16>(problem, 3e-2);
  }
  std::printf("kernels_test: %s, %zu problems in three types\n", isa_name(active_isa()), std::size(problems));
  return 0;
}
