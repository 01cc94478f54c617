// A tensor's elements as the kernels know them.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include "../gemm/weight.h"

namespace ulmfit_fast {

template <typename T>
struct ElementOf {
  using type = T;
};
template <>
struct ElementOf<at::BFloat16> {
  using type = Bfloat16;
};

// Calls the lambda with scalar_t for `dtype`; `function` is the op's name for messages.
#define ULMFIT_DISPATCH(function, dtype, ...)                                                                        \
  [&] {                                                                                                              \
    TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16, function,                \
                     ": on CPU input must be float32, float64 or bfloat16, got ", dtype, "; convert it");            \
    return AT_DISPATCH_SWITCH(                                                                                       \
        dtype, function, AT_DISPATCH_CASE_FLOATING_TYPES(__VA_ARGS__) AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__)); \
  }()

template <typename E>
const E* elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const E*>(tensor.const_data_ptr()) : nullptr;
}

template <typename E>
E* mutable_elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<E*>(tensor.mutable_data_ptr()) : nullptr;
}

// A parameter has the elements' type or, as a master weight, the accumulator's.
template <typename E>
bool is_own(const at::Tensor& tensor) {
  return tensor.element_size() == sizeof(E);  // else of the accumulator's type
}

template <typename E>
Weight<E> weight_elements(const at::Tensor& weight) {
  if (is_own<E>(weight)) return {elements<E>(weight), nullptr};
  return {nullptr, elements<Accumulator<E>>(weight)};
}

template <typename E>
WeightGradient<E> gradient_elements(const at::Tensor& gradient) {
  if (!gradient.defined()) return {};
  if (is_own<E>(gradient)) return {mutable_elements<E>(gradient), nullptr};
  return {nullptr, mutable_elements<Accumulator<E>>(gradient)};
}

}  // namespace ulmfit_fast
