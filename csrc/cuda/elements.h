// What the CUDA kernels share: element types, launches, random bits applied to a weight.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "../common/philox.h"
#include "geometry.h"

namespace ulmfit_fast::cuda {

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

// Runs a kernel on the current stream, in so many blocks.
template <typename... Parameters, typename... Arguments>
void launch_blocks(void (*kernel)(Parameters...), int64_t blocks, int threads_of_block, Arguments... arguments) {
  if (blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads_of_block);
  config.stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// The same with at least so many threads, of which each finds its place by `thread_index`.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t threads, Arguments... arguments) {
  launch_blocks(kernel, blocks_for(threads), kThreads, arguments...);
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
