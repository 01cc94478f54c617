// linear_cross_entropy on CUDA: a chunk of rows at a time through torch's products, one kernel from logits to loss and
// gradient.
//
// Limit: the matrix products. gradient_threshold is not used: gradients are exact. Ignored rows cost what others cost.
#include "../linear_cross_entropy.h"

#include <algorithm>

#include "geometry.h"
#include "linear_cross_entropy_kernel.h"
#include "tensors.h"

namespace ulmfit_fast {
namespace {

using namespace cuda;

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// On the CPU: torch's operators take it beside tensors on a GPU, and would wait for the GPU to read one there.
Tensor scalar(int64_t value) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_scalar_to_tensor_int64(value, &handle));
  return Tensor(handle);
}

template <typename E>
Result run(const LinearCrossEntropyInputs& a, std::array<bool, 3> needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), sum_dtype = state_dtype_of(a.input);
  const int64_t rows = a.input.size(0), features = a.input.size(1), classes = a.weight.size(0);
  const bool gradient = needs[kNeedGradInput] || needs[kNeedGradWeight] || needs[kNeedGradBias];
  const Tensor weight = converted(a.weight, dtype), target = as_contiguous(a.target);
  const OptionalTensor bias = converted(a.bias, sum_dtype);
  const Tensor row_weight = a.row_weight.has_value() ? as_contiguous(*a.row_weight)
                                                     : torch::stable::fill_(empty({rows}, sum_dtype, a.input), 1.0);
  const Tensor ignored_class = scalar(a.ignore_index), zero = scalar(0);

  const Tensor loss = empty({rows}, sum_dtype, a.input);
  const Tensor grad_input = empty({needs[kNeedGradInput] ? rows : 0, features}, dtype, a.input);
  Tensor grad_weight = zeros({needs[kNeedGradWeight] ? classes : 0, features}, sum_dtype, a.input);
  Tensor grad_bias = zeros({needs[kNeedGradBias] ? classes : 0}, sum_dtype, a.input);
  const int64_t chunk = chunk_rows(classes, sizeof(Acc));
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Tensor x = rows_of(a.input, first, count);
    const Tensor logits = multiply(x, transposed(weight), sum_dtype);
    const Tensor grad = empty({gradient ? count : 0, classes}, dtype, a.input);
    CrossEntropyRows<E> args{};
    args.rows = count;
    args.classes = classes;
    args.ignore_index = a.ignore_index;
    args.label_smoothing = static_cast<Acc>(a.label_smoothing);
    args.logits = logits.const_data_ptr<Acc>();
    args.bias = bias.has_value() ? bias->const_data_ptr<Acc>() : nullptr;
    args.target = target.const_data_ptr<int64_t>() + first;
    args.row_weight = row_weight.const_data_ptr<Acc>() + first;
    args.loss = loss.mutable_data_ptr<Acc>() + first;
    args.gradient = gradient ? grad.mutable_data_ptr<E>() : nullptr;
    cross_entropy<E>(stream_of(a.input), args);
    if (needs[kNeedGradInput]) multiply_into(rows_of(grad_input, first, count), grad, weight);
    if (needs[kNeedGradWeight]) {  // 0 times NaN would be NaN: what ignored rows hold does not matter
      const Tensor ignored = call("aten::eq", "Tensor", rows_of(target, first, count), ignored_class);
      const Tensor counted = call("aten::masked_fill", "Tensor", x, torch::stable::unsqueeze(ignored, 1), zero);
      grad_weight = sum_of(grad_weight, multiply(transposed(grad), counted, sum_dtype));
    }
    if (needs[kNeedGradBias]) {
      const std::array<int64_t, 1> all_rows{0};
      grad_bias = sum_of(grad_bias, torch::stable::sum(grad, Shape(all_rows), /*keepdim=*/false, sum_dtype));
    }
  }
  const Tensor result = torch::stable::sum(call("aten::mul", "Tensor", loss, row_weight));
  const auto or_empty = [](bool needed, const Tensor& grad) {
    return needed ? grad : empty({0}, dtype_of(grad), grad);
  };
  return {result, loss, or_empty(needs[kNeedGradInput], grad_input),
          or_empty(needs[kNeedGradWeight], converted(grad_weight, dtype_of(a.weight))),
          or_empty(needs[kNeedGradBias], converted(grad_bias, a.bias.has_value() ? dtype_of(*a.bias) : dtype))};
}

Result linear_cross_entropy_cuda(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                                 const Tensor& target, const OptionalTensor& row_weight, int64_t ignore_index,
                                 double label_smoothing, double gradient_threshold, const std::vector<bool>& needed) {
  const std::array<bool, 3> needs = array_of<3>(needed);
  const LinearCrossEntropyInputs a{
      input, weight, bias, target, row_weight, ignore_index, label_smoothing, gradient_threshold};
  check_linear_cross_entropy(a, needs);
  const DeviceGuard guard(input);
  return for_dtype("ulmfit_fast.ops.linear_cross_entropy", dtype_of(input),
                   [&]<typename T>() { return run<T>(a, needs); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy_cuda));
}

}  // namespace ulmfit_fast
