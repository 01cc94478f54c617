// The int8 kernel without torch, against plain loops in whole numbers; run by kernels_test.cpp.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "../../csrc/cpu/lstm/lstm_quantized_kernel.h"
#include "../../csrc/cpu/runtime/workspace.h"
#include "checks.h"

namespace ulmfit_fast {
namespace {

std::vector<int8_t> random_weights(std::mt19937& generator, int64_t count) {
  std::uniform_int_distribution<int> uniform(-127, 127);
  std::vector<int8_t> values(count);
  for (int8_t& value : values) value = static_cast<int8_t>(uniform(generator));
  for (size_t j = 0; j < values.size(); j += 5) values[j] = j % 2 == 0 ? 127 : -127;  // where sums could saturate
  return values;
}

// A row's whole numbers, and its scale.
float quantize(const float* row, int64_t count, float least, std::vector<int64_t>& whole) {
  float largest = least;
  for (int64_t k = 0; k < count; ++k) largest = std::max(largest, std::abs(row[k]));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  whole.resize(count);
  for (int64_t k = 0; k < count; ++k) whole[k] = std::lrint(row[k] * inverse);
  return largest / 127.0f;
}

// to[j] += sum over k, exactly, times both scales.
void add_product(const std::vector<int64_t>& row, float row_scale, const std::vector<int8_t>& weight,
                 const std::vector<float>& scale, float* to) {
  const auto depth = static_cast<int64_t>(row.size());
  for (size_t j = 0; j < scale.size(); ++j) {
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += row[k] * weight[j * depth + k];
    to[j] += static_cast<float>(sum) * (scale[j] * row_scale);
  }
}

// Without a step of recurrence that could turn a last bit into another whole number: each step starts from our own h.
void check(const Problem& problem) {
  const Sizes s(problem);
  const int64_t H = s.hidden, gates = 4 * H;
  std::mt19937 generator(5);
  const auto input = random_values<float>(generator, s.rows * s.input, 3),
             h0 = random_values<float>(generator, s.batch * H, 2), c0 = random_values<float>(generator, s.batch * H, 1);
  const auto bias = random_values<float>(generator, gates, 1);
  const auto weight_ih = random_weights(generator, gates * s.input), weight_hh = random_weights(generator, gates * H);
  const auto scale_ih = random_values<float>(generator, gates, 0.01),
             scale_hh = random_values<float>(generator, gates, 0.01);

  LstmQuantizedForward args{};
  args.sizes = {s.steps,         s.rows, s.batch, s.input, H, H, false, problem.reverse, problem.batch_sizes.data(),
                s.offsets.data()};
  const LstmQuantizedKernels& kernels = lstm_quantized_kernels();
  std::vector<std::byte> packed(kernels.packed_bytes(args.sizes) + 64);
  const auto aligned = [](std::vector<std::byte>& block) {
    return block.data() + 64 - reinterpret_cast<uintptr_t>(block.data()) % 64;
  };
  const LstmQuantizedPack pack{args.sizes,       weight_ih.data(), scale_ih.data(),
                               weight_hh.data(), scale_hh.data(),  aligned(packed)};
  run_team(pack, problem.threads, problem.threads, kernels.pack);

  std::vector<float> output(s.rows * H), h_n(s.batch * H), c = c0;
  args.grid = problem.grid;
  args.keep_output = true;
  args.input = input.data();
  args.h0 = h0.data();
  args.packed = aligned(packed);
  args.bias = bias.data();
  args.output = output.data();
  args.h_n = h_n.data();
  args.c = c.data();
  std::vector<std::byte> scratch(kernels.scratch(args) + 64);
  args.scratch = aligned(scratch);
  run_team(args, problem.grid.slices(), problem.threads, kernels.forward);

  std::vector<double> expected(output.size()), last(h_n.size()), cell(c0.begin(), c0.end());
  std::vector<int64_t> whole;
  for (int64_t step = 0; step < s.steps; ++step) {
    const int64_t t = problem.reverse ? s.steps - 1 - step : step, before = problem.reverse ? t + 1 : t - 1;
    for (int64_t r = 0; r < problem.batch_sizes[t]; ++r) {
      const int64_t row = s.offsets[t] + r;
      std::vector<float> a(bias);
      add_product(whole, quantize(&input[row * s.input], s.input, 0, whole), weight_ih, scale_ih, a.data());
      const bool continues = step > 0 && r < problem.batch_sizes[before];
      const float* h = continues ? &output[(s.offsets[before] + r) * H] : &h0[r * H];
      add_product(whole, quantize(h, H, 1, whole), weight_hh, scale_hh, a.data());
      for (int64_t k = 0; k < H; ++k) {
        double& own = cell[r * H + k];
        own = sigmoid(a[H + k]) * own + sigmoid(a[k]) * std::tanh(double(a[2 * H + k]));
        last[r * H + k] = expected[row * H + k] = sigmoid(a[3 * H + k]) * std::tanh(own);
      }
    }
  }
  require_near("int8 output", output, expected, 2e-6);
  require_near("int8 h_n", h_n, last, 2e-6);
  require_near("int8 c_n", c, cell, 5e-6);

  // Pooled, the states going nowhere else.
  std::vector<double> total(s.batch * H, 0), sums(total.size(), 0);
  std::vector<float> maximum(total.size(), -INFINITY), largest(maximum);
  std::vector<int32_t> argmax(total.size(), -1);
  std::vector<int64_t> zeros(s.batch, 0);
  std::vector<float> two_steps(2 * s.batch * H);
  if (problem.reverse) return;
  args.pool = {total.data(), maximum.data(), argmax.data(), zeros.data(), zeros.data()};
  args.keep_output = false;
  args.output = two_steps.data();
  c = c0;
  run_team(args, problem.grid.slices(), problem.threads, kernels.forward);
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t j = 0; j < problem.batch_sizes[t] * H; ++j) {
      sums[j] += output[s.offsets[t] * H + j];
      largest[j] = std::max(largest[j], output[s.offsets[t] * H + j]);
    }
  }
  if (total == sums && maximum == largest) return;
  std::fprintf(stderr, "int8 states are not pooled as they are\n");
  std::exit(1);
}

}  // namespace

void check_quantized() {
  const Problem problems[] = {
      {{1}, 1, 1, 0, false, 0.0, {1, 1}, 1},
      {{9, 8}, 1, 1, 0, false, 0.0, {1, 1}, 1},
      {{3, 2, 1}, 5, 7, 0, false, 0.0, {1, 1}, 1},
      {{2, 2, 1}, 6, 16, 0, false, 0.0, {1, 1}, 1},
      {{9, 9, 4, 1, 1}, 3, 33, 0, true, 0.0, {1, 2}, 2},
      {{13, 13, 6, 5}, 18, 35, 0, true, 0.0, {2, 2}, 4},
      {{20, 20, 14, 7}, 11, 50, 0, false, 0.0, {3, 2}, 4},              // fewer threads than slices
      {std::vector<int64_t>(520, 5), 9, 21, 0, false, 0.0, {1, 2}, 2},  // several chunks
      {std::vector<int64_t>(120, 13), 5, 19, 0, false, 0.0, {2, 2}, 4},
      {{600}, 5, 19, 0, false, 0.0, {1, 2}, 2},  // one step of more rows than a chunk
      {{7, 2}, 4803, 3, 0, false, 0.0, {1, 1}, 1},
      {{2, 1}, 131072, 1, 0, false, 0.0, {1, 1}, 1},  // as deep as int32 allows
  };
  for (const Problem& problem : problems) check(problem);
}

}  // namespace ulmfit_fast
