// linear and forget_mult without torch: sizes that no vector and no panel divides, pieces in any cut, exact memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../../csrc/cpu/gemm/linear_kernel.h"
#include "../../csrc/cpu/qrnn/forget_mult_kernel.h"
#include "checks.h"

namespace ulmfit_fast {
namespace {

template <typename E>
void check_linear(int64_t rows, int64_t depth, int64_t columns, bool transposed, double tolerance) {
  std::mt19937 generator(1);
  const auto input = random_values<E>(generator, rows * depth, 1);
  const auto weight = random_values<E>(generator, columns * depth, 0.3);
  const auto bias = random_values<Accumulator<E>>(generator, columns, 1);
  std::vector<E> output(rows * columns);
  Linear<E> args{rows, depth, columns, transposed, input.data(), {}, bias.data(), output.data()};
  args.weight.own = weight.data();
  const LinearKernels<E>& kernels = linear_kernels<E>();
  for (int64_t panel = 0; panel < kernels.panels(args); ++panel) {
    for (int64_t part = 0; part < 2; ++part) {
      std::vector<std::byte> scratch(kernels.scratch(args) + 64);  // exact, unlike a kept block
      kernels.run(args, panel, rows * part / 2, rows * (part + 1) / 2,
                  scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64);
    }
  }
  std::vector<double> expected(rows * columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; ++j) {
      double sum = to_double(bias[j]);
      for (int64_t k = 0; k < depth; ++k)
        sum += to_double(input[r * depth + k]) * to_double(weight[transposed ? k * columns + j : j * depth + k]);
      expected[r * columns + j] = sum;
    }
  require_near("linear", output, expected, tolerance);
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

template <typename E>
void check_forget_mult(const std::vector<int64_t>& batch_sizes, int64_t hidden, bool output_gate, int64_t bptt,
                       double tolerance) {
  using Acc = Accumulator<E>;
  const auto steps = static_cast<int64_t>(batch_sizes.size());
  const int64_t batch = batch_sizes[0], width = (output_gate ? 3 : 2) * hidden;
  std::vector<int64_t> offsets(steps, 0);
  for (int64_t t = 1; t < steps; ++t) offsets[t] = offsets[t - 1] + batch_sizes[t - 1];
  const int64_t rows = offsets.back() + batch_sizes.back();
  std::mt19937 generator(2);
  const auto gates = random_values<E>(generator, rows * width, 1);
  const auto c0 = random_values<Acc>(generator, batch * hidden, 1);
  const auto grad_c_n = random_values<Acc>(generator, batch * hidden, 1);
  const auto grad_output = random_values<E>(generator, rows * hidden, 1);
  const auto grad_h_n = random_values<E>(generator, batch * hidden, 1);
  std::vector<E> output(rows * hidden), h_n(batch * hidden), grad_gates(rows * width);
  std::vector<Acc> cells(rows * hidden), c = c0, grad_c = grad_c_n;
  const ForgetMultSizes sizes{steps, batch, hidden, batch_sizes.data(), offsets.data(), output_gate};
  const ForgetMultKernels<E>& kernels = forget_mult_kernels<E>();
  const auto for_pieces = [&](auto work) {
    for (const Range r : {Range(batch, 0, 2), Range(batch, 1, 2)})
      for (int64_t unit = 0; unit < hidden; unit += kernels.lanes)
        work(Columns{r.first, r.last, unit, std::min(unit + kernels.lanes, hidden)});
  };
  ForgetMultForward<E> forward{sizes, {}, gates.data(), output.data(), h_n.data(), cells.data(), c.data()};
  for_pieces([&](const Columns& piece) { kernels.forward(forward, piece); });

  ForgetMultBackward<E> backward{};
  backward.sizes = sizes;
  backward.bptt = bptt;
  backward.gates = gates.data();
  backward.cells = cells.data();
  backward.c0 = c0.data();
  backward.grad_output = grad_output.data();
  backward.grad_h_n = grad_h_n.data();
  backward.grad_c = grad_c.data();
  backward.grad_gates = grad_gates.data();
  for_pieces([&](const Columns& piece) { kernels.backward(backward, piece); });

  std::vector<double> h(rows * hidden), last(batch * hidden), cell(rows * hidden), end(batch * hidden);
  std::vector<double> grad(rows * width), grad_begin(batch * hidden);
  for (int64_t r = 0; r < batch; ++r) {
    for (int64_t u = 0; u < hidden; ++u) {
      const auto gate = [&](int64_t t, int64_t part) {
        return to_double(gates[(offsets[t] + r) * width + part * hidden + u]);
      };
      const auto at = [&](int64_t t) { return (offsets[t] + r) * hidden + u; };
      int64_t length = 0;
      double state = to_double(c0[r * hidden + u]);
      for (; length < steps && r < batch_sizes[length]; ++length) {
        const double f = sigmoid(gate(length, 1)), o = output_gate ? sigmoid(gate(length, 2)) : 1;
        state = f * std::tanh(gate(length, 0)) + (1 - f) * state;
        cell[at(length)] = state;
        h[at(length)] = last[r * hidden + u] = o * state;
      }
      end[r * hidden + u] = state;
      double carried = to_double(grad_c_n[r * hidden + u]);
      for (int64_t t = length - 1; t >= 0; --t) {
        const double z = std::tanh(gate(t, 0)), f = sigmoid(gate(t, 1)), o = output_gate ? sigmoid(gate(t, 2)) : 1;
        const double before = t == 0 ? to_double(c0[r * hidden + u]) : cell[at(t - 1)];
        const double of_h = to_double(grad_output[at(t)]) + (t + 1 == length ? to_double(grad_h_n[r * hidden + u]) : 0);
        const double of_c = carried + of_h * o;
        double* to = &grad[(offsets[t] + r) * width + u];
        to[0] = of_c * f * (1 - z * z);
        to[hidden] = of_c * (z - before) * f * (1 - f);
        if (output_gate) to[2 * hidden] = of_h * cell[at(t)] * o * (1 - o);
        carried = bptt > 0 && t > 0 && t % bptt == 0 ? 0 : of_c * (1 - f);
      }
      grad_begin[r * hidden + u] = carried;
    }
  }
  require_near("forget_mult output", output, h, tolerance);
  require_near("forget_mult h_n", h_n, last, tolerance);
  require_near("forget_mult c_n", c, end, tolerance);
  require_near("forget_mult grad_gates", grad_gates, grad, tolerance);
  require_near("forget_mult grad_c0", grad_c, grad_begin, tolerance);
}

template <typename E>
void check(double tolerance) {
  for (const bool transposed : {false, true}) {
    check_linear<E>(1, 1, 1, transposed, tolerance);
    check_linear<E>(13, 7, 67, transposed, tolerance);
    check_linear<E>(500, 31, 130, transposed, tolerance);  // several chunks of rows
    check_linear<E>(7, 5'003, 9, transposed, tolerance);   // slabs
  }
  for (const bool output_gate : {false, true}) {
    check_forget_mult<E>({1}, 1, output_gate, 0, tolerance);
    check_forget_mult<E>({5, 4, 4, 1}, 37, output_gate, 0, tolerance);
    check_forget_mult<E>({3, 3, 3, 3, 2, 1, 1}, 64, output_gate, 3, tolerance);
  }
}

}  // namespace

void check_qrnn() {
  check<float>(3e-5);
  check<double>(1e-12);
  check<Bfloat16>(3e-2);
}

}  // namespace ulmfit_fast
