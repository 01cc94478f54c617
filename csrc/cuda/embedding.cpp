// embedding on CUDA, from torch's own: an index and a product are at the memory's limit, and its backward sorts the
// tokens instead of adding atomically.
#include "../embedding.h"

namespace ulmfit_fast {
namespace {

Tensor scaled(const Tensor& rows, const Tensor& tokens, const OptionalTensor& mask) {
  if (!mask.has_value()) return rows;
  return rows.mul(mask->index_select(0, tokens).unsqueeze(1)).to(dtype_of(rows));
}

Tensor embedding_cuda(const Tensor& tokens, const Tensor& weight, const OptionalTensor& mask) {
  check_embedding("ulmfit_fast.ops.embedding", tokens, weight, mask);
  const c10::cuda::CUDAGuard guard(weight.device());
  return scaled(weight.index_select(0, tokens), tokens, mask);
}

Tensor embedding_backward_cuda(const Tensor& grad, const Tensor& tokens, const OptionalTensor& mask, int64_t known) {
  check_embedding_backward(grad, tokens, mask, known);
  const c10::cuda::CUDAGuard guard(grad.device());
  return at::embedding_dense_backward(scaled(grad, tokens, mask).contiguous(), tokens.contiguous(), known,
                                      /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ulmfit_fast, CUDA, m) {
  m.impl("embedding", TORCH_BOX(&embedding_cuda));
  m.impl("embedding_backward", TORCH_BOX(&embedding_backward_cuda));
}

}  // namespace ulmfit_fast
