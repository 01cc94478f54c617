#include "../../linear_cross_entropy.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "../runtime/elements.h"
#include "../runtime/memory.h"
#include "../runtime/workspace.h"
#include "linear_cross_entropy_kernel.h"

namespace ulmfit_fast {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The rows that count.
std::vector<int64_t> counted_rows(const LinearCrossEntropyInputs& a, const int64_t* target) {
  std::vector<int64_t> rows;
  rows.reserve(a.target.numel());
  for (int64_t n = 0; n < a.target.numel(); ++n) {
    if (target[n] == a.ignore_index) continue;
    TORCH_CHECK_INDEX(target[n] >= 0 && target[n] < a.weight.size(0), "ulmfit_fast.ops.linear_cross_entropy: target[",
                      n, "] must be in [0, ", a.weight.size(0), ") or ignore_index (", a.ignore_index, "), got ",
                      target[n]);
    rows.push_back(n);
  }
  return rows;
}

template <typename E>
Result run(const LinearCrossEntropyInputs& a, std::array<bool, 3> needs) {
  using Acc = Accumulator<E>;
  const at::TensorOptions options = a.input.options(), sums = options.dtype(state_dtype_of(a.input));
  const at::Tensor input = a.input.contiguous(), target = a.target.contiguous();
  const at::Tensor weight = a.weight.contiguous();
  const at::Tensor bias = a.bias.has_value() ? a.bias->to(state_dtype_of(a.input)).contiguous() : at::Tensor();
  const at::Tensor row_weight = a.row_weight.has_value() ? a.row_weight->contiguous() : at::Tensor();
  const auto* targets = elements<int64_t>(target);
  const std::vector<int64_t> rows = counted_rows(a, targets);
  const bool all = static_cast<int64_t>(rows.size()) == a.input.size(0);
  const auto when = [&](bool needed, at::IntArrayRef shape, const at::TensorOptions& like) {
    return needed ? new_tensor(shape, like) : at::empty({0}, like);
  };
  const at::Tensor loss = at::zeros({input.size(0)}, sums);
  const at::Tensor grad_input = when(needs[kNeedGradInput], input.sizes(), options);
  const at::Tensor grad_weight = when(needs[kNeedGradWeight], weight.sizes(), sums);
  const at::Tensor grad_bias = when(needs[kNeedGradBias], {weight.size(0)}, sums);
  const auto results = [&](double result) -> Result {
    return {at::scalar_tensor(result, sums), loss, grad_input, grad_weight.to(a.weight.scalar_type()),
            grad_bias.to(a.bias.has_value() ? a.bias->scalar_type() : a.input.scalar_type())};
  };
  if (!all) grad_input.zero_();
  if (rows.empty()) {
    grad_weight.zero_();
    grad_bias.zero_();
    return results(0);
  }

  LinearCrossEntropy<E> args{};
  args.rows = static_cast<int64_t>(rows.size());
  args.features = input.size(1);
  args.classes = weight.size(0);
  args.slices = 1;
#if AT_PARALLEL_OPENMP
  if (!at::in_parallel_region()) args.slices = at::get_num_threads();
#endif
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
  at::parallel_for(0, args.slices, 1,
                   [&](int64_t begin, int64_t end) { kernels.run(args, Member(barrier, begin, end)); });

  // In double and in order: the sum's bits do not depend on how many threads there are.
  double result = 0;
  for (const int64_t n : rows)
    result += static_cast<double>(args.loss[n]) * (row_weight.defined() ? elements<Acc>(row_weight)[n] : 1);
  return results(result);
}

Result linear_cross_entropy_cpu(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                const at::Tensor& target, const OptionalTensor& row_weight, int64_t ignore_index,
                                double label_smoothing, double gradient_threshold, std::array<bool, 3> needs) {
  const LinearCrossEntropyInputs a{
      input, weight, bias, target, row_weight, ignore_index, label_smoothing, gradient_threshold};
  check_linear_cross_entropy(a, needs);
  return ULMFIT_DISPATCH("ulmfit_fast.ops.linear_cross_entropy", input.scalar_type(),
                         [&] { return run<ElementOf<scalar_t>::type>(a, needs); });
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CPU, m) {
  m.impl("linear_cross_entropy", &linear_cross_entropy_cpu);
}

}  // namespace ulmfit_fast
