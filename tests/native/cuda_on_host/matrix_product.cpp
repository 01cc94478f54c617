// The product that torch has on CUDA only: float32 sums and result of narrower elements.
#include <ATen/Functions.h>
#include <torch/library.h>

TORCH_LIBRARY_IMPL(aten, CPU, m) {
  m.impl("mm.dtype", [](const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
    const bool half = a.scalar_type() == at::kHalf || a.scalar_type() == at::kBFloat16;
    TORCH_CHECK(a.scalar_type() == b.scalar_type() && half && dtype == at::kFloat, "CUDA has no such product");
    return at::mm(a.to(dtype), b.to(dtype));
  });
}
