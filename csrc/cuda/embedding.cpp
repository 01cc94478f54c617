// embedding on CUDA, from torch's own: an index and a product are at the memory's limit, and its backward sorts the
// tokens instead of adding atomically.
#include "../embedding.h"

#include "tensors.h"

namespace ulmfit_fast {
namespace {

Tensor scaled(const Tensor& rows, const Tensor& tokens, const OptionalTensor& mask) {
  if (!mask.has_value()) return rows;
  const Tensor factors = torch::stable::unsqueeze(call("aten::index_select", "", *mask, int64_t{0}, tokens), 1);
  return converted(call("aten::mul", "Tensor", rows, factors), dtype_of(rows));
}

Tensor embedding_cuda(const Tensor& tokens, const Tensor& weight, const OptionalTensor& mask) {
  check_embedding("ulmfit_fast.ops.embedding", tokens, weight, mask);
  const cuda::DeviceGuard guard(weight);
  return scaled(call("aten::index_select", "", weight, int64_t{0}, tokens), tokens, mask);
}

Tensor embedding_backward_cuda(const Tensor& grad, const Tensor& tokens, const OptionalTensor& mask, int64_t known) {
  check_embedding_backward(grad, tokens, mask, known);
  const cuda::DeviceGuard guard(grad);
  return call("aten::embedding_dense_backward", "", as_contiguous(scaled(grad, tokens, mask)), as_contiguous(tokens),
              known, /*padding_idx=*/int64_t{-1}, /*scale_grad_by_freq=*/false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("embedding", TORCH_BOX(&embedding_cuda));
  m.impl("embedding_backward", TORCH_BOX(&embedding_backward_cuda));
}

}  // namespace ulmfit_fast
