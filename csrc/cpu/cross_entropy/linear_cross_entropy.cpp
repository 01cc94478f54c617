#include "../../linear_cross_entropy.h"

#include <vector>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "linear_cross_entropy_kernel.h"

namespace ulmfit_fast {
namespace {

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// The rows that count.
std::vector<int64_t> counted_rows(const LinearCrossEntropyInputs& a, const int64_t* target) {
  std::vector<int64_t> rows;
  rows.reserve(a.target.numel());
  for (int64_t n = 0; n < a.target.numel(); ++n) {
    if (target[n] == a.ignore_index) continue;
    ULMFIT_CHECK_INDEX(target[n] >= 0 && target[n] < a.weight.size(0), "ulmfit_fast.ops.linear_cross_entropy: target[",
                       n, "] must be in [0, ", a.weight.size(0), ") or ignore_index (", a.ignore_index, "), got ",
                       target[n]);
    rows.push_back(n);
  }
  return rows;
}

template <typename E>
Result run(const LinearCrossEntropyInputs& a, std::array<bool, 3> needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), sum_dtype = state_dtype_of(a.input);
  const Tensor input = as_contiguous(a.input), target = as_contiguous(a.target), weight = as_contiguous(a.weight);
  const OptionalTensor bias = converted(a.bias, sum_dtype), row_weight = as_contiguous(a.row_weight);
  const auto* targets = elements<int64_t>(target);
  const std::vector<int64_t> rows = counted_rows(a, targets);
  const bool all = static_cast<int64_t>(rows.size()) == a.input.size(0);
  const auto when = [](bool needed, Shape shape, ScalarType of) { return new_tensor(needed ? shape : Shape({0}), of); };
  const Tensor loss = zeros({input.size(0)}, sum_dtype, input);
  const Tensor grad_input = when(needs[kNeedGradInput], input.sizes(), dtype);
  const Tensor grad_weight = when(needs[kNeedGradWeight], weight.sizes(), sum_dtype);
  const Tensor grad_bias = when(needs[kNeedGradBias], {weight.size(0)}, sum_dtype);
  const auto results = [&](double result) -> Result {
    const Tensor sum = empty({}, sum_dtype, input);
    *mutable_elements<Acc>(sum) = static_cast<Acc>(result);
    return {sum, loss, grad_input, converted(grad_weight, dtype_of(a.weight)),
            converted(grad_bias, a.bias.has_value() ? dtype_of(*a.bias) : dtype)};
  };
  if (!all) clear(grad_input);
  if (rows.empty()) {
    clear(grad_weight);
    clear(grad_bias);
    return results(0);
  }

  LinearCrossEntropy<E> args{};
  args.rows = static_cast<int64_t>(rows.size());
  args.features = input.size(1);
  args.classes = weight.size(0);
  args.slices = team_threads();
  args.row = rows.data();
  args.input = elements<E>(input);
  args.weight = weight_elements<E>(weight);
  args.bias = elements<Acc>(bias);
  args.target = targets;
  const bool gradient = needs[0] || needs[1] || needs[2];
  args.row_weight = gradient ? elements<Acc>(row_weight) : nullptr;
  args.label_smoothing = a.label_smoothing;
  args.threshold = a.gradient_threshold;
  args.loss = mutable_elements<Acc>(loss);
  args.grad_input = needs[kNeedGradInput] ? mutable_elements<E>(grad_input) : nullptr;
  args.grad_weight = needs[kNeedGradWeight] ? mutable_elements<Acc>(grad_weight) : nullptr;
  args.grad_bias = needs[kNeedGradBias] ? mutable_elements<Acc>(grad_bias) : nullptr;
  const LinearCrossEntropyKernels<E>& kernels = linear_cross_entropy_kernels<E>();
  const Workspace workspace(kernels.scratch(args));
  args.scratch = workspace.data();
  Barrier barrier(args.slices);
  parallel_for(args.slices, 1, [&](int64_t begin, int64_t end) { kernels.run(args, Member(barrier, begin, end)); });

  // In double and in order: the sum's bits do not depend on how many threads there are.
  double result = 0;
  for (const int64_t n : rows)
    result += static_cast<double>(args.loss[n]) * (row_weight.has_value() ? elements<Acc>(row_weight)[n] : 1);
  return results(result);
}

Result linear_cross_entropy_cpu(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                                const Tensor& target, const OptionalTensor& row_weight, int64_t ignore_index,
                                double label_smoothing, double gradient_threshold, const std::vector<bool>& needed) {
  const std::array<bool, 3> needs = array_of<3>(needed);
  const LinearCrossEntropyInputs a{
      input, weight, bias, target, row_weight, ignore_index, label_smoothing, gradient_threshold};
  check_linear_cross_entropy(a, needs);
  return for_dtype("ulmfit_fast.ops.linear_cross_entropy", dtype_of(input),
                   [&]<typename T>() { return run<typename ElementOf<T>::type>(a, needs); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy_cpu));
}

}  // namespace ulmfit_fast
