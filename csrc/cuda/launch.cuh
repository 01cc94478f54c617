// How kernels are launched, and where a thread finds its place.
#pragma once

#include <stdexcept>
#include <string>

#include "elements.h"
#include "geometry.h"

#ifndef ULMFIT_CUDA_ARCHITECTURES
#define ULMFIT_CUDA_ARCHITECTURES "of its compiler's default"
#endif

#ifdef __CUDACC__
#define ULMFIT_UNROLL _Pragma("unroll")
#else
#define ULMFIT_UNROLL
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

// Runs a kernel whose blocks wait for each other, each with so many bytes of shared memory: all of them at once, or
// none. Whether the device had room.
template <typename... Parameters, typename... Arguments>
bool launch_together(cudaStream_t stream, void (*kernel)(Parameters...), int64_t blocks, int threads_of_block,
                     int64_t shared_bytes, Arguments... arguments) {
  cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads_of_block);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = 1;
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  if (error == cudaSuccess) return true;
  if (error != cudaErrorCooperativeLaunchTooLarge && error != cudaErrorNotSupported && error != cudaErrorInvalidValue)
    fail_launch(error);
  cudaGetLastError();  // which torch's own launches would find
  return false;
}

#ifdef __CUDACC__
// The shared memory that a launch asked for.
__device__ inline unsigned char* shared_of_launch() {
  extern __shared__ __align__(16) unsigned char of_launch[];
  return of_launch;
}
#endif

// This thread's place among all of a one-dimensional launch.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

}  // namespace ulmfit_fast::cuda
