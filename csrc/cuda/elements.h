// What the CUDA kernels share: element types, launches, random bits applied to a weight.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "../common/philox.h"

namespace ulmfit_fast::cuda {

constexpr int kThreads = 256;

// Sums and cell states of elements of type E.
template <typename E>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename E>
using Accumulator = typename AccumulatorOf<E>::type;

inline unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// a x b, summed and returned in `dtype`.
inline at::Tensor multiply(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  return a.scalar_type() == dtype ? at::mm(a, b) : at::mm(a, b, dtype);
}

// This thread's place among all of a one-dimensional launch.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// Calls the lambda with scalar_t for `dtype`; `function` is the op's name for messages.
#define ULMFIT_DISPATCH_CUDA(function, dtype, ...)                                                             \
  AT_DISPATCH_SWITCH(dtype, function,                                                                          \
                     AT_DISPATCH_CASE_FLOATING_TYPES(__VA_ARGS__) AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__) \
                         AT_DISPATCH_CASE(at::kHalf, __VA_ARGS__))

}  // namespace ulmfit_fast::cuda
