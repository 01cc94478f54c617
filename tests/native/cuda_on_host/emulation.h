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

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorNoKernelImageForDevice, cudaErrorNotReady };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
constexpr unsigned cudaEventDisableTiming = 2;
using cudaStream_t = void*;
using cudaEvent_t = void*;

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

// For tests (torch_cuda.cpp): what a GPU would have been given so far; the compute capability of one that the build has
// no kernels for, or 0; whether the tensor cores compute wrong, never end, or are being captured in a graph.
struct Counts {
  int64_t launches = 0, products = 0;
};
inline Counts counts;
inline int without_kernels = 0;
enum Fault { kNone, kWrongProducts, kNeverEnds, kCapturing };
inline int fault = kNone;
constexpr int kCapability = 90, kProcessors = 4;

}  // namespace cuda_on_host

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int without = cuda_on_host::without_kernels, capability = without != 0 ? without : cuda_on_host::kCapability;
  *value = attribute == cudaDevAttrMultiProcessorCount      ? cuda_on_host::kProcessors
           : attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10
                                                            : capability % 10;
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned) {
  return cudaSuccess;
}

inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}

inline cudaError_t cudaEventQuery(cudaEvent_t) {
  return cuda_on_host::fault == cuda_on_host::kNeverEnds ? cudaErrorNotReady : cudaSuccess;
}

inline cudaError_t cudaEventDestroy(cudaEvent_t) {
  return cudaSuccess;
}

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status =
      cuda_on_host::fault == cuda_on_host::kCapturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
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

namespace cuda_on_host {

// What csrc/cuda/tensor_core.cuh says of mma.m16n8k16.
template <typename E>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const auto element = [](uint32_t pair, int place) {
    const auto bits = static_cast<uint16_t>(pair >> (16 * place));
    E value;
    std::memcpy(&value, &bits, sizeof(value));
    return static_cast<float>(value);
  };
  const int lane = threadIdx.x % 32;
  Fibers::only().share(mine, [&](const auto& of) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k)
        sums[i] += element(of(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2], k % 2) *
                   element(of(column * 4 + k % 8 / 2).b[k / 8], k % 2);
      if (fault == kWrongProducts) sums[i] += 1;
    }
  });
}

}  // namespace cuda_on_host

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
