// The cross-entropy kernel without torch, against plain loops in double; run by kernels_test.cpp.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "../../csrc/cpu/cross_entropy/linear_cross_entropy_kernel.h"
#include "../../csrc/cpu/runtime/workspace.h"
#include "checks.h"

namespace ulmfit_fast {
namespace {

struct CrossEntropyProblem {
  int64_t all_rows, features, classes, slices;
  int threads;
  double label_smoothing;
  bool bias, master;  // master: the weight in the accumulator's type
};

template <typename E>
void check(const CrossEntropyProblem& problem, double tolerance) {
  using Acc = Accumulator<E>;
  const int64_t n = problem.all_rows, features = problem.features, classes = problem.classes;
  std::mt19937 generator(3);
  const auto input = random_values<E>(generator, n * features, 1);
  const auto weight = random_values<E>(generator, classes * features, 0.5);
  std::vector<Acc> master;
  for (const E& value : weight) master.push_back(static_cast<Acc>(to_double(value)));
  const auto bias = random_values<Acc>(generator, classes, 1), row_weight = random_values<Acc>(generator, n, 1);
  std::vector<int64_t> rows, target(n);
  for (int64_t r = 0; r < n; ++r) {
    target[r] = (r * 7919) % classes;
    if (r % 5 != 3) rows.push_back(r);
  }

  std::vector<double> loss(n, 0), grad_input(n * features, 0), grad_weight(classes * features, 0),
      grad_bias(classes, 0);
  for (const int64_t r : rows) {
    std::vector<double> logit(classes);
    double sum = 0, total = 0;
    for (int64_t v = 0; v < classes; ++v) {
      logit[v] = problem.bias ? bias[v] : 0;
      for (int64_t e = 0; e < features; ++e)
        logit[v] += to_double(input[r * features + e]) * to_double(weight[v * features + e]);
      sum += std::exp(logit[v]);
      total += logit[v];
    }
    const double smoothing = problem.label_smoothing;
    loss[r] = std::log(sum) - (1 - smoothing) * logit[target[r]] - smoothing * total / static_cast<double>(classes);
    for (int64_t v = 0; v < classes; ++v) {
      const double expected = (v == target[r] ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
      const double grad = (std::exp(logit[v]) / sum - expected) * static_cast<double>(row_weight[r]);
      grad_bias[v] += grad;
      for (int64_t e = 0; e < features; ++e) {
        grad_input[r * features + e] += grad * to_double(weight[v * features + e]);
        grad_weight[v * features + e] += grad * to_double(input[r * features + e]);
      }
    }
  }

  std::vector<Acc> our_loss(n, 0), our_grad_weight(classes * features), our_grad_bias(classes);
  std::vector<E> our_grad_input(n * features);
  LinearCrossEntropy<E> args{};
  args.rows = static_cast<int64_t>(rows.size());
  args.features = features;
  args.classes = classes;
  args.slices = problem.slices;
  args.row = rows.data();
  args.input = input.data();
  if (problem.master)
    args.weight.master = master.data();
  else
    args.weight.own = weight.data();
  args.bias = problem.bias ? bias.data() : nullptr;
  args.target = target.data();
  args.row_weight = row_weight.data();
  args.label_smoothing = problem.label_smoothing;
  args.loss = our_loss.data();
  args.grad_input = our_grad_input.data();
  args.grad_weight = our_grad_weight.data();
  args.grad_bias = our_grad_bias.data();
  const LinearCrossEntropyKernels<E>& kernels = linear_cross_entropy_kernels<E>();
  std::vector<std::byte> scratch(kernels.scratch(args) + 64);  // exact, unlike a kept block
  args.scratch = scratch.data() + 64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  run_team(args, problem.slices, problem.threads, kernels.run);
  require_near("loss", our_loss, loss, tolerance);
  require_near("grad_input", our_grad_input, grad_input, tolerance);
  require_near("grad_weight", our_grad_weight, grad_weight, tolerance);
  require_near("grad_bias", our_grad_bias, grad_bias, tolerance);
}

}  // namespace

void check_cross_entropy() {
  const CrossEntropyProblem problems[] = {
      {1, 1, 1, 1, 1, 0.0, false, false},      {7, 3, 5, 2, 2, 0.1, true, false},
      {64, 33, 131, 2, 2, 0.0, true, true},    {330, 17, 390, 3, 2, 0.2, true, true},
      {19, 40, 1000, 4, 4, 0.0, false, false},
  };
  for (const CrossEntropyProblem& problem : problems) {
    check<float>(problem, 2e-5);
    check<double>(problem, 1e-12);
    check<Bfloat16>(problem, 3e-2);
  }
}

}  // namespace ulmfit_fast
