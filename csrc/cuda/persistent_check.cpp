#include "persistent_check.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>

#include "check_problem.h"
#include "lstm_call.h"
#include "persistent_forward.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {
namespace {

constexpr const char* kVariable = "ULMFIT_FAST_CUDA_PERSISTENT";
constexpr int64_t kPollsOfCheck = kMostPolls / 4;  // a fraction of a second: the problem is small

// Of one device in this process.
struct Trust {
  uint64_t* there = nullptr;          // the status as the device sees it
  volatile uint64_t* here = nullptr;  // and as the host does
  bool failed = false;
  std::map<std::tuple<ScalarType, int, int>, bool> passed;  // by an instance's elements and tiles
};
std::mutex mutex;
std::map<int, Trust> trusted;

// Memory of the host that a launch writes, so that nobody has to wait for the device to read it.
bool has_status(Trust& trust) {
  if (trust.here != nullptr) return true;
  void *here = nullptr, *there = nullptr;
  if (cudaHostAlloc(&here, sizeof(uint64_t), cudaHostAllocMapped) != cudaSuccess ||
      cudaHostGetDevicePointer(&there, here, 0) != cudaSuccess)
    return false;
  trust.here = static_cast<uint64_t*>(here);
  trust.there = static_cast<uint64_t*>(there);
  *trust.here = 0;
  return true;
}

// What is wrong with one instance of the kernel, or nothing.
std::string fault_of(const PersistentTiles& tiles, bool reverse, const LstmInputs& call, const Trust& trust) {
  const PersistentTrial trial = persistent_trial(tiles, persistent_device().processors);
  const int64_t sizes[] = {trial.rows, trial.rows, (trial.rows + 1) / 2, 1};  // sequences end
  const CheckProblem problem(sizes, trial.hidden, call);
  const LstmInputs a = problem.inputs();
  const ForwardResult expected = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, {});
  Recurrence how;
  how.status = trust.there;
  how.persistent_tiles = tiles;
  how.most_polls = kPollsOfCheck;
  how.must_persist = true;
  const ForwardResult persistent = run_lstm_forward(a, nullptr, reverse, Keep::kBackward, how);
  if (!ends_in_time(stream_of(call.input))) return "it did not end within a time limit, or with an error";
  if (*trust.here != 0) {
    *trust.here = 0;
    return "a block waited for another in vain";
  }
  for (const double largest :
       {relative_difference(persistent.output, expected.output), relative_difference(persistent.h_n, expected.h_n),
        relative_difference(persistent.c_n, expected.c_n), relative_difference(persistent.gates, expected.gates),
        relative_difference(persistent.cells, expected.cells)})
    if (!(largest <= kMostDifference)) return "results differ by " + std::to_string(largest);
  return "";
}

bool passes(const PersistentTiles& tiles, const LstmInputs& call, const Trust& trust) {
  for (const bool reverse : {false, true}) {
    std::string fault;
    try {
      fault = fault_of(tiles, reverse, call, trust);
    } catch (const std::exception& error) {
      fault = error.what();
    }
    if (fault.empty()) continue;
    std::fprintf(stderr,
                 "ulmfit_fast: the persistent LSTM kernel (%d x %d tiles) failed its check on CUDA device %d and is "
                 "not used: %s\n",
                 tiles.unit_tiles, tiles.row_tiles, static_cast<int>(call.input.get_device_index()), fault.c_str());
    return false;
  }
  return true;
}

}  // namespace

uint64_t* may_persist(const LstmInputs& call) {
  const char* wanted = std::getenv(kVariable);
  if (wanted == nullptr || std::string_view(wanted) != "1") return nullptr;
  const PersistentPlan plan = persistent_plan(persistent_call(call), persistent_device());
  if (!plan) return nullptr;
  const std::lock_guard lock(mutex);
  Trust& trust = trusted[static_cast<int>(call.input.get_device_index())];
  if (trust.failed) return nullptr;
  const std::tuple instance(dtype_of(call.input), plan.tiles.unit_tiles, plan.tiles.row_tiles);
  const auto known = trust.passed.find(instance);
  if (known != trust.passed.end()) return known->second ? trust.there : nullptr;
  cudaStreamCaptureStatus status{};
  if (cudaStreamIsCapturing(stream_of(call.input), &status) != cudaSuccess || status != cudaStreamCaptureStatusNone)
    return nullptr;
  if (!has_status(trust)) return nullptr;
  trust.passed[instance] = passes(plan.tiles, call, trust);
  return trust.passed[instance] ? trust.there : nullptr;
}

void check_persistent(const Tensor& on_device) {
  const std::lock_guard lock(mutex);
  const auto found = trusted.find(static_cast<int>(on_device.get_device_index()));
  if (found == trusted.end() || found->second.here == nullptr || *found->second.here == 0) return;
  Trust& trust = found->second;
  const uint64_t status = *trust.here;
  *trust.here = 0;
  trust.failed = true;
  throw std::runtime_error("ulmfit_fast.ops.lstm: in an earlier call on CUDA device " + std::to_string(found->first) +
                           " the persistent kernel waited in vain for slice " + std::to_string(lost_slice(status)) +
                           " to publish step " + std::to_string(lost_epoch(status)) +
                           ". The results of that call are NaN. From now on this process goes step by step; set "
                           "ULMFIT_FAST_CUDA_PERSISTENT=0 "
                           "and repeat what was computed since");
}

}  // namespace ulmfit_fast::cuda
