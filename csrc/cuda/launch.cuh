// How kernels are launched, and where a thread finds its place.
#pragma once

#include <stdexcept>

#include "elements.h"
#include "geometry.h"

namespace ulmfit_fast::cuda {

// Runs a kernel in so many blocks.
template <typename... Parameters, typename... Arguments>
void launch_blocks(cudaStream_t stream, void (*kernel)(Parameters...), int64_t blocks, int threads_of_block,
                   Arguments... arguments) {
  if (blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads_of_block);
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// The same with at least so many threads, of which each finds its place by `thread_index`.
template <typename... Parameters, typename... Arguments>
void launch(cudaStream_t stream, void (*kernel)(Parameters...), int64_t threads, Arguments... arguments) {
  launch_blocks(stream, kernel, blocks_for(threads), kThreads, arguments...);
}

// This thread's place among all of a one-dimensional launch.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

}  // namespace ulmfit_fast::cuda
