// A tensor's elements as the kernels know them.
#pragma once

#include "../../check.h"
#include "../gemm/weight.h"

namespace ulmfit_fast {

template <typename T>
struct ElementOf {
  using type = T;
};
template <>
struct ElementOf<torch::headeronly::BFloat16> {
  using type = Bfloat16;
};

// work.template operator()<T>() for the type T of `dtype`'s elements; `function` is the op's name for messages.
template <typename Work>
auto for_dtype(const char* function, ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Float:
      return work.template operator()<float>();
    case ScalarType::Double:
      return work.template operator()<double>();
    case ScalarType::BFloat16:
      return work.template operator()<torch::headeronly::BFloat16>();
    default:
      fail<TypeError>(function, ": on CPU input must be float32, float64 or bfloat16, got ", dtype, "; convert it");
  }
}

template <typename E>
const E* elements(const Tensor& tensor) {
  return static_cast<const E*>(tensor.const_data_ptr());
}

template <typename E>
E* mutable_elements(const Tensor& tensor) {
  return static_cast<E*>(tensor.mutable_data_ptr());
}

// Of an optional tensor that is none: null.
template <typename E>
const E* elements(const OptionalTensor& tensor) {
  return tensor.has_value() ? elements<E>(*tensor) : nullptr;
}

template <typename E>
E* mutable_elements(const OptionalTensor& tensor) {
  return tensor.has_value() ? mutable_elements<E>(*tensor) : nullptr;
}

// A parameter has the elements' type or, as a master weight, the accumulator's.
template <typename E>
bool is_own(const Tensor& tensor) {
  return tensor.element_size() == sizeof(E);  // else of the accumulator's type
}

template <typename E>
Weight<E> weight_elements(const Tensor& weight) {
  if (is_own<E>(weight)) return {elements<E>(weight), nullptr};
  return {nullptr, elements<Accumulator<E>>(weight)};
}

template <typename E>
WeightGradient<E> gradient_elements(const OptionalTensor& gradient) {
  if (!gradient.has_value()) return {};
  if (is_own<E>(*gradient)) return {mutable_elements<E>(gradient), nullptr};
  return {nullptr, mutable_elements<Accumulator<E>>(gradient)};
}

}  // namespace ulmfit_fast
