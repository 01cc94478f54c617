// CUDA's language and launches on the host: csrc/cuda compiled with this header first, and this folder before torch's
// in the include path, runs on the CPU, kernels and all that calls them, and takes the CPU's place in torch's
// dispatcher. For tests where there is no GPU; says nothing about races, streams or speed.
//
// Threads run one after the other. A kernel that waits for others is run on fibers, each with a stack of its own.
#pragma once

#include <math.h>
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(threads)

struct dim3 {
  dim3(unsigned count = 1) : x(count) {}
  unsigned x;
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorNoKernelImageForDevice };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
using cudaStream_t = void*;

inline const char* cudaGetErrorString(cudaError_t) {
  return "no such launch";
}

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

namespace cuda_on_host {

// What a GPU would have been given so far; the compute capability of one that the build has no kernels for, or 0. For
// tests (torch_cuda.cpp).
struct Counts {
  int64_t launches = 0, products = 0;
};
inline Counts counts;
inline int without_kernels = 0;

}  // namespace cuda_on_host

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int capability = cuda_on_host::without_kernels;
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return cudaSuccess;
}

inline dim3 blockIdx;
#define threadIdx (cuda_on_host::Fibers::only().place())

inline void __syncthreads() {
  cuda_on_host::Fibers::only().wait_for_block();
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int other) {
  return cuda_on_host::Fibers::only().exchange(value, other);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidValue;
  if (cuda_on_host::without_kernels != 0) return cudaErrorNoKernelImageForDevice;
  ++cuda_on_host::counts.launches;
  for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x)
    cuda_on_host::Fibers::only().run_block(config->blockDim.x, [&] { kernel(arguments...); });
  return cudaSuccess;
}

// All registrations are for the CPU.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(library, key, m) _STABLE_TORCH_LIBRARY_IMPL(library, CPU, m, C10_UID)
