#include "fused_check.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "check_problem.h"
#include "lstm_call.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {
namespace {

constexpr const char* kVariable = "ULMFIT_FAST_CUDA_FUSED_STEP";
// Rows and units that no tile divides; sequences end.
constexpr int64_t kSizes[] = {35, 20, 3};
constexpr int64_t kRows = 35 + 20 + 3, kHidden = 72;

// What is wrong with one instance of the kernel, or nothing.
std::string fault_of(FusedTiles tiles, ScalarType dtype, bool reverse, const LstmInputs& call) {
  const CheckProblem problem(kSizes, kHidden, dtype, call);
  const LstmInputs a = problem.inputs();
  const OptionalTensor none;
  const ForwardResult expected = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, {});
  const ForwardResult fused = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, {.fused = true, .tiles = tiles});
  const OptionalTensor grad_output(drawn({kRows, kHidden}, 1, dtype, call));
  const ResultGradients grads{grad_output, none, none};
  const Saved saved{expected.output, expected.gates, expected.cells};
  const Needs needs{true, true, true, true, true, false};
  const Backward expected_grads = run_lstm_backward(grads, a, nullptr, reverse, 0, saved, needs, {});
  const Backward fused_grads =
      run_lstm_backward(grads, a, nullptr, reverse, 0, saved, needs, {.fused = true, .tiles = tiles});
  const std::string which = std::to_string(tiles.unit_tiles) + " x " + std::to_string(tiles.row_tiles) + " tiles";
  if (!ends_in_time(stream_of(call.input))) return which + " did not end within a time limit, or with an error";
  for (const double largest :
       {relative_difference(fused.output, expected.output), relative_difference(fused.h_n, expected.h_n),
        relative_difference(fused.c_n, expected.c_n), relative_difference(fused.gates, expected.gates),
        relative_difference(std::get<0>(fused_grads), std::get<0>(expected_grads)),
        relative_difference(std::get<1>(fused_grads), std::get<1>(expected_grads)),
        relative_difference(std::get<2>(fused_grads), std::get<2>(expected_grads)),
        relative_difference(std::get<4>(fused_grads), std::get<4>(expected_grads))})
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
