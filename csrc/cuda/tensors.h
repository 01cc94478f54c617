// What the CUDA ops share: products of tensors, the choice of a kernel by a tensor's type.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "elements.h"

namespace ulmfit_fast::cuda {

// a x b, summed and returned in `dtype`.
inline Tensor multiply(const Tensor& a, const Tensor& b, ScalarType dtype) {
  return dtype_of(a) == dtype ? at::mm(a, b) : at::mm(a, b, dtype);
}

// Calls the lambda with scalar_t for `dtype`; `function` is the op's name for messages.
#define ULMFIT_DISPATCH_CUDA(function, dtype, ...)                                                                    \
  AT_DISPATCH_SWITCH(dtype, function,                                                                                 \
                     AT_DISPATCH_CASE_FLOATING_TYPES(__VA_ARGS__) AT_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__) \
                         AT_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__))

}  // namespace ulmfit_fast::cuda
