// embedding on CUDA, from torch's own: an index and a product are at the memory's limit, and its backward sorts the
// tokens instead of adding atomically.
#include "../embedding.h"

#include <ATen/Functions.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace ulmfit_fast {
namespace {

at::Tensor scaled(const at::Tensor& rows, const at::Tensor& tokens, const OptionalTensor& mask) {
  if (!mask.has_value()) return rows;
  return rows.mul(mask->index_select(0, tokens).unsqueeze(1)).to(rows.scalar_type());
}

at::Tensor embedding_cuda(const at::Tensor& tokens, const at::Tensor& weight, const OptionalTensor& mask) {
  check_embedding("ulmfit_fast.ops.embedding", tokens, weight, mask);
  const c10::cuda::CUDAGuard guard(weight.device());
  return scaled(weight.index_select(0, tokens), tokens, mask);
}

at::Tensor embedding_backward_cuda(const at::Tensor& grad, const at::Tensor& tokens, const OptionalTensor& mask,
                                   int64_t known) {
  check_embedding_backward(grad, tokens, mask, known);
  const c10::cuda::CUDAGuard guard(grad.device());
  return at::embedding_dense_backward(scaled(grad, tokens, mask).contiguous(), tokens.contiguous(), known,
                                      /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
}

}  // namespace

TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("embedding", &embedding_cuda);
  m.impl("embedding_backward", &embedding_backward_cuda);
}

}  // namespace ulmfit_fast
