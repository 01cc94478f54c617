#include "fused_check.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "../common/philox.h"
#include "lstm_call.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {
namespace {

constexpr const char* kVariable = "ULMFIT_FAST_CUDA_FUSED_STEP";
constexpr std::chrono::seconds kTimeLimit{5};
constexpr double kMostDifference = 2e-2;  // after a few steps, beside one and the largest value: half precision
// Rows and units that no tile divides; sequences end.
constexpr int64_t kSizes[] = {35, 20, 3};
constexpr int64_t kRows = 35 + 20 + 3, kInputs = 8, kHidden = 72;

Tensor on_cpu(const Tensor& tensor) {
  return torch::stable::to(torch::stable::to(tensor, ScalarType::Float),
                           torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

// Between -scale and scale, always the same.
Tensor drawn(Shape shape, float scale, ScalarType dtype, const LstmInputs& call) {
  const Tensor values = empty(shape, ScalarType::Float, call.batch_sizes);  // which is on the CPU
  float* to = values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    uint32_t bits[4];
    philox4x32(static_cast<uint64_t>(shape[0]), static_cast<uint64_t>(i), bits);
    to[i] = scale * (static_cast<float>(bits[0]) / 2147483648.0f - 1.0f);
  }
  return torch::stable::to(torch::stable::to(values, dtype), call.input.device());
}

// Whether what is queued ends in time.
bool ends(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) return false;
  cudaError_t status = cudaEventRecord(event, stream);
  const auto end = std::chrono::steady_clock::now() + kTimeLimit;
  while (status == cudaSuccess && (status = cudaEventQuery(event)) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() > end) return false;  // nor does the event
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    status = cudaSuccess;
  }
  cudaEventDestroy(event);
  return status == cudaSuccess;
}

// What is wrong with one instance of the kernel, or nothing.
std::string fault_of(FusedTiles tiles, ScalarType dtype, bool reverse, const LstmInputs& call) {
  const Tensor input = drawn({kRows, kInputs}, 1, dtype, call), sizes = empty({3}, ScalarType::Long, call.batch_sizes);
  std::copy_n(kSizes, 3, sizes.mutable_data_ptr<int64_t>());
  const Tensor h0 = drawn({kSizes[0], kHidden}, 0.9f, dtype, call), c0 = drawn({kSizes[0], kHidden}, 1, dtype, call);
  const Tensor weight_ih = drawn({4 * kHidden, kInputs}, 0.3f, dtype, call);
  const Tensor weight_hh = drawn({4 * kHidden, kHidden}, 0.3f, dtype, call);
  const Tensor seed = empty({1}, ScalarType::Long, call.batch_sizes);
  *seed.mutable_data_ptr<int64_t>() = 20260926;
  const OptionalTensor none;
  const LstmInputs a{input, sizes, h0, c0, weight_ih, weight_hh, none, none, none, seed, 0.4};
  const ForwardResult expected = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, {});
  const ForwardResult fused = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, {true, tiles});
  const OptionalTensor grad_output(drawn({kRows, kHidden}, 1, dtype, call));
  const ResultGradients grads{grad_output, none, none};
  const Saved saved{expected.output, expected.gates, expected.cells};
  const Needs needs{true, true, true, true, true, false};
  const Backward expected_grads = run_lstm_backward(grads, a, nullptr, reverse, 0, saved, needs, {});
  const Backward fused_grads = run_lstm_backward(grads, a, nullptr, reverse, 0, saved, needs, {true, tiles});
  const std::string which = std::to_string(tiles.unit_tiles) + " x " + std::to_string(tiles.row_tiles) + " tiles";
  if (!ends(stream_of(call.input))) return which + " did not end within a time limit, or with an error";
  const auto compared = [&](const Tensor& mine, const Tensor& other) {
    const Tensor a_values = on_cpu(mine), b_values = on_cpu(other);
    const float *x = a_values.const_data_ptr<float>(), *y = b_values.const_data_ptr<float>();
    double largest = 0, value = 0;
    for (int64_t i = 0; i < a_values.numel(); ++i) {
      const double difference = std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i]));
      if (!(difference <= largest)) largest = difference;  // NaN, too
      value = std::max(value, std::abs(static_cast<double>(y[i])));
    }
    return largest / (1 + value);
  };
  for (const double largest :
       {compared(fused.output, expected.output), compared(fused.h_n, expected.h_n), compared(fused.c_n, expected.c_n),
        compared(fused.gates, expected.gates), compared(std::get<0>(fused_grads), std::get<0>(expected_grads)),
        compared(std::get<1>(fused_grads), std::get<1>(expected_grads)),
        compared(std::get<2>(fused_grads), std::get<2>(expected_grads)),
        compared(std::get<4>(fused_grads), std::get<4>(expected_grads))})
    if (!(largest <= kMostDifference)) return which + " differ by " + std::to_string(largest);
  return "";
}

bool passes(const LstmInputs& call) {
  bool reverse = false;
  for (const ScalarType dtype : {ScalarType::BFloat16, ScalarType::Half}) {
    for (const int unit_tiles : kUnitTiles) {
      for (const int row_tiles : kRowTiles) {
        std::string fault;
        try {
          fault = fault_of({unit_tiles, row_tiles}, dtype, reverse, call);
        } catch (const std::exception& error) {
          fault = error.what();
        }
        reverse = !reverse;
        if (fault.empty()) continue;
        std::fprintf(stderr,
                     "ulmfit_fast: the fused LSTM step failed its check on CUDA device %d and is not used: %s\n",
                     static_cast<int>(call.input.get_device_index()), fault.c_str());
        return false;
      }
    }
  }
  return true;
}

}  // namespace

bool may_fuse(const LstmInputs& call) {
  const char* wanted = std::getenv(kVariable);
  if (wanted == nullptr || std::string_view(wanted) != "1" || call.input.element_size() != 2) return false;
  int major = 0;
  const int device = static_cast<int>(call.input.get_device_index());
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      10 * major < kFusedCapability)
    return false;
  static std::mutex mutex;
  static std::map<int, bool> passed;
  const std::lock_guard lock(mutex);
  const auto known = passed.find(device);
  if (known != passed.end()) return known->second;
  cudaStreamCaptureStatus status{};
  if (cudaStreamIsCapturing(stream_of(call.input), &status) != cudaSuccess || status != cudaStreamCaptureStatusNone)
    return false;
  return passed[device] = passes(call);
}

}  // namespace ulmfit_fast::cuda
