// What the CUDA ops share: the device's stream, products of tensors, the choice of a kernel by a tensor's type.
//
// What would choose other dtypes under autocast, the products, does not go by torch's dispatcher.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/accelerator.h>

#include "../lstm.h"
#include "elements.h"

namespace ulmfit_fast::cuda {

// Makes a tensor's device the current one while in scope.
struct DeviceGuard : torch::stable::accelerator::DeviceGuard {
  explicit DeviceGuard(const Tensor& tensor)
      : torch::stable::accelerator::DeviceGuard(static_cast<int32_t>(tensor.get_device_index())) {}
};

inline cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline Tensor transposed(const Tensor& matrix) {
  return torch::stable::transpose(matrix, 0, 1);
}

// A view of `count` rows.
inline Tensor rows_of(Tensor tensor, int64_t first, int64_t count) {
  return torch::stable::narrow(tensor, 0, first, count);
}

inline void copy_to(Tensor to, const Tensor& from) {
  torch::stable::copy_(to, from);
}

// a x b, summed in float32 (float64 for float64) and returned in `dtype`. Half precision results are rounded from these
// sums: of products that return it cuBLAS may add parts in half precision (torch's
// allow_bf16_reduced_precision_reduction, on by default).
inline Tensor multiply(const Tensor& a, const Tensor& b, ScalarType dtype) {
  const ScalarType sums = state_dtype_of(a);
  const Tensor result = empty({a.size(0), b.size(1)}, sums, a);
  const AOTITorchError error = dtype_of(a) == sums
                                   ? aoti_torch_cuda_mm_out(result.get(), a.get(), b.get())
                                   : aoti_torch_cuda_mm_dtype_out(result.get(), a.get(), b.get(), code_of(sums));
  TORCH_ERROR_CODE_CHECK(error);
  return converted(result, dtype);
}

// The same into `result`, of the factors' dtype.
inline void multiply_into(const Tensor& result, const Tensor& a, const Tensor& b) {
  if (dtype_of(result) != state_dtype_of(a)) return copy_to(result, multiply(a, b, state_dtype_of(a)));
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_out(result.get(), a.get(), b.get()));
}

// a + b. Torch's addition takes a Scalar, which has no stable form; its subtraction has a function of its own.
inline Tensor sum_of(const Tensor& a, const Tensor& b) {
  return torch::stable::subtract(a, b, -1.0);
}

// work.template operator()<T>() for the type T of `dtype`'s elements; `function` is the op's name for messages.
template <typename Work>
auto for_dtype(const char* function, ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Float:
      return work.template operator()<float>();
    case ScalarType::Double:
      return work.template operator()<double>();
    case ScalarType::BFloat16:
      return work.template operator()<c10::BFloat16>();
    case ScalarType::Half:
      return work.template operator()<c10::Half>();
    default:
      fail<TypeError>(function, ": on CUDA input must be float32, float64, bfloat16 or float16, got ", dtype);
  }
}

}  // namespace ulmfit_fast::cuda
