// linear_cross_entropy on CUDA: a chunk of rows at a time through at::mm, one kernel from logits to loss and gradient.
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

template <typename E>
Result run(const LinearCrossEntropyInputs& a, std::array<bool, 3> needs) {
  using Acc = Accumulator<E>;
  const ScalarType dtype = dtype_of(a.input), sum_dtype = state_dtype_of(a.input);
  const at::TensorOptions options = a.input.options(), sums = options.dtype(sum_dtype);
  const int64_t rows = a.input.size(0), features = a.input.size(1), classes = a.weight.size(0);
  const bool gradient = needs[kNeedGradInput] || needs[kNeedGradWeight] || needs[kNeedGradBias];
  const Tensor weight = a.weight.to(dtype), target = a.target.contiguous();
  const Tensor bias = a.bias.has_value() ? a.bias->to(sum_dtype).contiguous() : Tensor();
  const Tensor row_weight = a.row_weight.has_value() ? a.row_weight->contiguous() : at::ones({rows}, sums);

  const Tensor loss = at::empty({rows}, sums);
  const Tensor grad_input = at::empty({needs[kNeedGradInput] ? rows : 0, features}, options);
  Tensor grad_weight = at::zeros({needs[kNeedGradWeight] ? classes : 0, features}, sums);
  Tensor grad_bias = at::zeros({needs[kNeedGradBias] ? classes : 0}, sums);
  const int64_t chunk = chunk_rows(classes, sizeof(Acc));
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Tensor x = a.input.narrow(0, first, count);
    const Tensor logits = multiply(x, weight.t(), sum_dtype);
    const Tensor grad = gradient ? at::empty({count, classes}, options) : Tensor();
    CrossEntropyRows<E> args{};
    args.rows = count;
    args.classes = classes;
    args.ignore_index = a.ignore_index;
    args.label_smoothing = static_cast<Acc>(a.label_smoothing);
    args.logits = logits.const_data_ptr<Acc>();
    args.bias = bias.defined() ? bias.const_data_ptr<Acc>() : nullptr;
    args.target = target.const_data_ptr<int64_t>() + first;
    args.row_weight = row_weight.const_data_ptr<Acc>() + first;
    args.loss = loss.mutable_data_ptr<Acc>() + first;
    args.gradient = gradient ? grad.mutable_data_ptr<E>() : nullptr;
    cross_entropy<E>(c10::cuda::getCurrentCUDAStream(), args);
    if (needs[kNeedGradInput]) {
      Tensor to = grad_input.narrow(0, first, count);
      at::mm_out(to, grad, weight);
    }
    if (needs[kNeedGradWeight]) {  // 0 times NaN would be NaN: what ignored rows hold does not matter
      const Tensor ignored = target.narrow(0, first, count).eq(a.ignore_index).unsqueeze(1);
      grad_weight.add_(multiply(grad.t(), x.masked_fill(ignored, 0), sum_dtype));
    }
    if (needs[kNeedGradBias]) grad_bias.add_(grad.sum(0, /*keepdim=*/false, sum_dtype));
  }
  const Tensor result = loss.mul(row_weight).sum();
  const auto or_empty = [](bool needed, const Tensor& grad) { return needed ? grad : at::empty({0}, grad.options()); };
  return {result, loss, or_empty(needs[kNeedGradInput], grad_input),
          or_empty(needs[kNeedGradWeight], grad_weight.to(dtype_of(a.weight))),
          or_empty(needs[kNeedGradBias], grad_bias.to(a.bias.has_value() ? dtype_of(*a.bias) : dtype))};
}

Result linear_cross_entropy_cuda(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                                 const Tensor& target, const OptionalTensor& row_weight, int64_t ignore_index,
                                 double label_smoothing, double gradient_threshold, std::array<bool, 3> needs) {
  const LinearCrossEntropyInputs a{
      input, weight, bias, target, row_weight, ignore_index, label_smoothing, gradient_threshold};
  check_linear_cross_entropy(a, needs);
  const c10::cuda::CUDAGuard guard(input.device());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // dtypes are chosen here
  return ULMFIT_DISPATCH_CUDA("linear_cross_entropy", dtype_of(input), [&] { return run<scalar_t>(a, needs); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy_cuda));
}

}  // namespace ulmfit_fast
