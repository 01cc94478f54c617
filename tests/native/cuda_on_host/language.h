#pragma once
// CUDA's language and launches on the host. Threads of a block run one after the other. A kernel that waits for others
// is run on fibers, each with a stack of its own. Blocks run one after the other, too, but those of a cooperative
// launch, which may wait for each other: each of them is a thread of the host.

#include <math.h>

#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __shared__ static thread_local  // a block does not leave its thread of the host
#define __grid_constant__
#define __launch_bounds__(threads)

struct dim3 {
  dim3(unsigned count = 1) : x(count) {}
  unsigned x;
};

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorNoKernelImageForDevice,
  cudaErrorNotReady,
  cudaErrorNotSupported,
  cudaErrorCooperativeLaunchTooLarge
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrCooperativeLaunch
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore, cudaLaunchAttributeCooperative };
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

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  const cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace cuda_on_host {

// For tests (torch_cuda.cpp): what a GPU would have been given so far; the compute capability of one that the build has
// no kernels for, or 0; whether the tensor cores compute wrong, never end, or are being captured in a graph; whether
// the last block of a cooperative launch is lost, or such launches are refused.
struct Counts {
  int64_t launches = 0, products = 0;
};
inline Counts counts;
inline int without_kernels = 0;
enum Fault { kNone, kWrongProducts, kNeverEnds, kCapturing, kLostBlock, kNoRoom };
inline int fault = kNone;
constexpr int kCapability = 90, kProcessors = 4;
constexpr int kSharedBytes = 227 << 10;  // of a block

}  // namespace cuda_on_host

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int without = cuda_on_host::without_kernels, capability = without != 0 ? without : cuda_on_host::kCapability;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_on_host::kProcessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_on_host::kSharedBytes;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    default:
      *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  }
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

inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= cuda_on_host::kSharedBytes ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline constexpr unsigned cudaHostAllocMapped = 2;

inline cudaError_t cudaHostAlloc(void** there, size_t bytes, unsigned) {
  *there = std::malloc(bytes);
  return cudaSuccess;
}

inline cudaError_t cudaHostGetDevicePointer(void** of_device, void* of_host, unsigned) {
  *of_device = of_host;
  return cudaSuccess;
}

inline thread_local dim3 blockIdx;
#define threadIdx (cuda_on_host::Fibers::only().place())

inline void __syncthreads() {
  cuda_on_host::Fibers::only().wait_for_block();
}

inline void __syncwarp() {
  cuda_on_host::Fibers::only().wait_for_warp();
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

namespace cuda_on_host {

struct alignas(16) SixteenBytes {
  unsigned char bytes[16];
};
inline thread_local std::unique_ptr<SixteenBytes[]> shared_of_launch;

// Blocks that wait for each other: each on a thread of the host.
template <typename Body>
cudaError_t run_together(const cudaLaunchConfig_t& config, const Body& body) {
  if (config.gridDim.x > kProcessors || fault == kNoRoom) return cudaErrorCooperativeLaunchTooLarge;
  std::vector<std::thread> blocks;
  for (unsigned block = 0; block < config.gridDim.x - (fault == kLostBlock); ++block)
    blocks.emplace_back([&, block] {
      blockIdx.x = block;
      shared_of_launch = std::make_unique<SixteenBytes[]>(config.dynamicSmemBytes / 16 + 1);
      std::memset(shared_of_launch.get(), 0xFF, config.dynamicSmemBytes);  // NaN, until it is written
      Fibers::only().run_block(config.blockDim.x, body);
    });
  for (std::thread& block : blocks) block.join();
  return cudaSuccess;
}

}  // namespace cuda_on_host

namespace ulmfit_fast::cuda {

inline unsigned char* shared_of_launch() {  // as launch.cuh has it for CUDA
  return cuda_on_host::shared_of_launch[0].bytes;
}

}  // namespace ulmfit_fast::cuda

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidValue;
  if (cuda_on_host::without_kernels != 0) return cudaErrorNoKernelImageForDevice;
  const auto body = [&] { kernel(arguments...); };
  if (config->numAttrs > 0 && config->attrs[0].id == cudaLaunchAttributeCooperative) {
    const cudaError_t error = cuda_on_host::run_together(*config, body);
    cuda_on_host::counts.launches += error == cudaSuccess;
    return error;
  }
  ++cuda_on_host::counts.launches;
  for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x)
    cuda_on_host::Fibers::only().run_block(config->blockDim.x, body);
  return cudaSuccess;
}
