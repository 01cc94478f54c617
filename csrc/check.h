// Argument checks that both devices share. Messages name the function, the argument, what was expected and what came.
#pragma once

#include <sstream>

#include "errors.h"
#include "tensor.h"

namespace ulmfit_fast {

template <typename Part>
void print(std::ostream& message, const Part& part) {
  message << part;
}

inline void print(std::ostream& message, const Shape& shape) {
  message << '[';
  for (size_t d = 0; d < shape.size(); ++d) message << (d == 0 ? "" : ", ") << shape[d];
  message << ']';
}

inline void print(std::ostream& message, const torch::stable::Device& device) {
  using Type = torch::headeronly::DeviceType;
  const Type type = device.type();
  if (type == Type::CPU || type == Type::CUDA || type == Type::Meta)
    message << (type == Type::CPU ? "cpu" : type == Type::CUDA ? "cuda" : "meta");
  else
    message << "device type " << static_cast<int>(type);
  if (device.has_index() && type != Type::CPU) message << ':' << device.index();
}

template <typename Error, typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (print(message, parts), ...);
  throw Error(message.str());
}

// An expression, whose message is put together only where the condition does not hold.
#define ULMFIT_CHECK(Error, condition, ...)                                    \
  (__builtin_expect(static_cast<bool>(condition), true) ? static_cast<void>(0) \
                                                        : ::ulmfit_fast::fail<Error>(__VA_ARGS__))
#define ULMFIT_CHECK_VALUE(condition, ...) ULMFIT_CHECK(::ulmfit_fast::ValueError, condition, __VA_ARGS__)
#define ULMFIT_CHECK_TYPE(condition, ...) ULMFIT_CHECK(::ulmfit_fast::TypeError, condition, __VA_ARGS__)
#define ULMFIT_CHECK_INDEX(condition, ...) ULMFIT_CHECK(::ulmfit_fast::IndexError, condition, __VA_ARGS__)

inline void check_shape(const char* function, const char* name, const Tensor& tensor, Shape expected) {
  ULMFIT_CHECK_VALUE(tensor.sizes() == expected, function, ": ", name, " must have shape ", expected, ", got ",
                     tensor.sizes());
}

// The dispatcher chooses a kernel by all tensors together, so that any of them may lie elsewhere.
inline void check_device(const char* function, const char* name, const Tensor& tensor, const char* like_name,
                         const Tensor& like) {
  ULMFIT_CHECK_VALUE(on_same_device(tensor, like), function, ": ", name, " must be on the device of ", like_name, " (",
                     like.device(), "), got ", tensor.device(), "; move one of them");
}

// Same dtype and device as `like`.
inline void check_like(const char* function, const char* name, const Tensor& tensor, const char* like_name,
                       const Tensor& like) {
  ULMFIT_CHECK_TYPE(dtype_of(tensor) == dtype_of(like), function, ": ", name, " must have the dtype of ", like_name,
                    " (", dtype_of(like), "), got ", dtype_of(tensor), "; convert one of them");
  check_device(function, name, tensor, like_name, like);
}

inline void check_drop_probability(const char* function, double p) {
  ULMFIT_CHECK_VALUE(p >= 0.0 && p < 1.0, function, ": weight_dropout must be in [0, 1), got ", p);
}

inline void check_seed(const char* function, const Tensor& seed) {
  ULMFIT_CHECK_TYPE(dtype_of(seed) == ScalarType::Long, function, ": seed must be an int64 tensor, got ",
                    dtype_of(seed));
  ULMFIT_CHECK_VALUE(seed.numel() == 1, function, ": seed must hold one element, got shape ", seed.sizes());
}

}  // namespace ulmfit_fast
