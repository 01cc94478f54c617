// Tensors by torch's stable ABI, and what the ops need of it. docs/design.md says what has no stable form.
//
// What is called here has been in libtorch since TORCH_TARGET_VERSION (CMakeLists.txt) and stays: the module therefore
// runs beside any torch from that one on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

namespace ulmfit_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;  // a counted reference; to none costs an allocation, so that "none" is an OptionalTensor
using OptionalTensor = std::optional<Tensor>;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Half;
}

// Torch's numbers of dtypes, which need not be those of the headers that this was compiled with.
struct DtypeCodes {
  const int32_t float32 = aoti_torch_dtype_float32(), float64 = aoti_torch_dtype_float64();
  const int32_t bfloat16 = aoti_torch_dtype_bfloat16(), int64 = aoti_torch_dtype_int64();
};
inline const DtypeCodes dtype_codes;

inline int32_t code_of(ScalarType dtype) {
  if (dtype == ScalarType::Float) return dtype_codes.float32;
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
}

// As Tensor::scalar_type, which asks torch for its number of each dtype in turn: a small call asks thirty times.
inline ScalarType dtype_of(const Tensor& tensor) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  if (code == dtype_codes.float32) return ScalarType::Float;
  if (code == dtype_codes.bfloat16) return ScalarType::BFloat16;
  if (code == dtype_codes.int64) return ScalarType::Long;
  if (code == dtype_codes.float64) return ScalarType::Double;
  return tensor.scalar_type();
}

inline bool on_same_device(const Tensor& a, const Tensor& b) {
  int32_t type_a = 0, type_b = 0, index_a = 0, index_b = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(a.get(), &type_a));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(b.get(), &type_b));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(a.get(), &index_a));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(b.get(), &index_b));
  return type_a == type_b && index_a == index_b;
}

inline int64_t elements_of(Shape shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

// Of contiguous rows. The ops make no tensor of more than two dimensions.
class Strides {
 public:
  explicit Strides(Shape shape) {
    STD_TORCH_CHECK(shape.size() <= strides_.size(), "a tensor of ", shape.size(), " dimensions");
    if (shape.size() == 2) strides_[0] = std::max<int64_t>(shape[1], 1);
  }
  const int64_t* data() const { return strides_.data(); }

 private:
  std::array<int64_t, 2> strides_{1, 1};
};

// Contents unspecified, on the device of `like`.
inline Tensor empty(Shape shape, ScalarType dtype, const Tensor& like) {
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                  Strides(shape).data(), code_of(dtype), device_type, device_index,
                                                  &handle));
  return Tensor(handle);
}

inline Tensor zeros(Shape shape, ScalarType dtype, const Tensor& like) {
  Tensor result = empty(shape, dtype, like);
  if (result.is_cpu() && result.numel() > 0)
    std::memset(result.mutable_data_ptr(), 0, result.numel() * result.element_size());
  else
    torch::stable::zero_(result);
  return result;
}

// A list of the schema's `bool[N]`, which the dispatcher has checked for its length.
template <size_t N>
std::array<bool, N> array_of(const std::vector<bool>& list) {
  std::array<bool, N> array{};
  std::copy_n(list.begin(), std::min(N, list.size()), array.begin());
  return array;
}

// Torch's operator `name` by the dispatcher, for tensors and what may stand beside them but Scalars, which have no
// stable form. Every argument of its schema is given.
template <typename... Arguments>
Tensor call(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The tensor itself where it is contiguous already. (Named otherwise than torch::stable's, which arguments find.)
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Contiguous and in `dtype`; the tensor itself where it is that already.
inline Tensor converted(const Tensor& tensor, ScalarType dtype) {
  return as_contiguous(dtype_of(tensor) == dtype ? tensor : torch::stable::to(tensor, dtype));
}

inline OptionalTensor as_contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(as_contiguous(*tensor)) : std::nullopt;
}

inline OptionalTensor converted(const OptionalTensor& tensor, ScalarType dtype) {
  return tensor.has_value() ? OptionalTensor(converted(*tensor, dtype)) : std::nullopt;
}

// Memory of its own, contiguous and in `dtype`.
inline Tensor copied(const Tensor& tensor, ScalarType dtype) {
  if (tensor.is_cpu() && dtype_of(tensor) == dtype && tensor.is_contiguous()) {
    Tensor result = empty(tensor.sizes(), dtype, tensor);
    if (tensor.numel() > 0)
      std::memcpy(result.mutable_data_ptr(), tensor.const_data_ptr(), tensor.numel() * tensor.element_size());
    return result;
  }
  return torch::stable::to(tensor, dtype, std::nullopt, std::nullopt, std::nullopt, /*non_blocking=*/false,
                           /*copy=*/true, torch::headeronly::MemoryFormat::Contiguous);
}

}  // namespace ulmfit_fast
