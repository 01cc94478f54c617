// Small problems that new kernels are tried with on a device before they are trusted, and how results are compared.
#pragma once

#include <chrono>
#include <cmath>
#include <initializer_list>
#include <span>
#include <thread>

#include "../common/philox.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {

constexpr std::chrono::seconds kCheckTimeLimit{5};
constexpr double kMostDifference = 2e-2;  // after a few steps, beside one and the largest value: half precision

// Between -scale and scale, always the same, in the call's dtype or another, on its device.
inline Tensor drawn(Shape shape, float scale, ScalarType dtype, const LstmInputs& call) {
  const Tensor values = empty(shape, ScalarType::Float, call.batch_sizes);  // which is on the CPU
  float* to = values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    uint32_t bits[4];
    philox4x32(static_cast<uint64_t>(shape[0]), static_cast<uint64_t>(i), bits);
    to[i] = scale * (static_cast<float>(bits[0]) / 2147483648.0f - 1.0f);
  }
  return torch::stable::to(torch::stable::to(values, dtype), call.input.device());
}

// A ragged batch with DropConnect, in a dtype, on a call's device.
class CheckProblem {
 public:
  CheckProblem(std::span<const int64_t> sizes, int64_t hidden, const LstmInputs& call)
      : CheckProblem(sizes, hidden, dtype_of(call.input), call) {}
  CheckProblem(std::span<const int64_t> sizes, int64_t hidden, ScalarType dtype, const LstmInputs& call)
      : input_(drawn({sum_of_sizes(sizes), kInputs}, 1, dtype, call)),
        sizes_(empty({static_cast<int64_t>(sizes.size())}, ScalarType::Long, call.batch_sizes)),
        h0_(drawn({sizes[0], hidden}, 0.9f, dtype, call)),
        c0_(drawn({sizes[0], hidden}, 1, dtype, call)),
        weight_ih_(drawn({4 * hidden, kInputs}, 0.3f, dtype, call)),
        weight_hh_(drawn({4 * hidden, hidden}, 0.3f, dtype, call)),
        seed_(empty({1}, ScalarType::Long, call.batch_sizes)) {
    std::copy(sizes.begin(), sizes.end(), sizes_.mutable_data_ptr<int64_t>());
    *seed_.mutable_data_ptr<int64_t>() = 20260926;
  }

  LstmInputs inputs() const {
    return {input_, sizes_, h0_, c0_, weight_ih_, weight_hh_, none_, none_, none_, seed_, 0.4};
  }

 private:
  static constexpr int64_t kInputs = 8;
  static int64_t sum_of_sizes(std::span<const int64_t> sizes) {
    int64_t sum = 0;
    for (const int64_t size : sizes) sum += size;
    return sum;
  }

  Tensor input_, sizes_, h0_, c0_, weight_ih_, weight_hh_, seed_;
  OptionalTensor none_;
};

// Whether what is queued ends in time, and without an error.
inline bool ends_in_time(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) return false;
  cudaError_t status = cudaEventRecord(event, stream);
  const auto end = std::chrono::steady_clock::now() + kCheckTimeLimit;
  while (status == cudaSuccess && (status = cudaEventQuery(event)) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() > end) return false;  // nor does the event
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    status = cudaSuccess;
  }
  cudaEventDestroy(event);
  return status == cudaSuccess;
}

// The largest difference, beside one and the largest value. NaN where one is.
inline double relative_difference(const Tensor& mine, const Tensor& other) {
  const auto on_cpu = [](const Tensor& tensor) {
    return torch::stable::to(torch::stable::to(tensor, ScalarType::Float),
                             torch::stable::Device(torch::headeronly::DeviceType::CPU));
  };
  const Tensor a_values = on_cpu(mine), b_values = on_cpu(other);
  const float *x = a_values.const_data_ptr<float>(), *y = b_values.const_data_ptr<float>();
  double largest = 0, value = 0;
  for (int64_t i = 0; i < a_values.numel(); ++i) {
    const double difference = std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
    if (!(difference <= largest)) largest = difference;  // NaN, too
    value = std::max(value, std::abs(static_cast<double>(y[i])));
  }
  return largest / (1 + value);
}

}  // namespace ulmfit_fast::cuda
