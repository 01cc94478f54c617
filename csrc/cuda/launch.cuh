// How kernels are launched, and where a thread finds its place.
#pragma once

#include <stdexcept>
#include <string>

#include "elements.h"
#include "geometry.h"

#ifndef ULMFIT_CUDA_ARCHITECTURES
#define ULMFIT_CUDA_ARCHITECTURES "of its compiler's default"
#endif

namespace ulmfit_fast::cuda {

// The error of a launch, which torch's own launches would otherwise find.
[[noreturn]] inline void fail_launch(cudaError_t error) {
  cudaGetLastError();
  if (error != cudaErrorNoKernelImageForDevice) throw std::runtime_error(cudaGetErrorString(error));
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  const int capability = 10 * major + minor;
  const std::string number = std::to_string(capability);
  const std::string remedy = capability < 75
                                 ? "GPUs before 7.5 are not supported"
                                 : "build it again with CMAKE_ARGS=-DULMFIT_FAST_CUDA_ARCHITECTURES=" + number;
  throw std::runtime_error("ulmfit_fast: this build has CUDA kernels for the architectures " ULMFIT_CUDA_ARCHITECTURES
                           ", not for this GPU's " +
                           number + ": " + remedy + ", or use device=\"cpu\"");
}

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
  if (error != cudaSuccess) fail_launch(error);
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
