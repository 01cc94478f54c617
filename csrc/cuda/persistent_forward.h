// The recurrence of one call in one launch, where its sizes and the device allow it.
#pragma once

#include "../common/philox.h"
#include "lstm_call.h"
#include "lstm_persistent.h"
#include "lstm_steps.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {

inline PersistentDevice persistent_device() {
  int device = 0, major = 0, minor = 0, processors = 0, shared_bytes = 0, cooperative = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
  return {10 * major + minor, processors, shared_bytes, cooperative != 0};
}

inline PersistentCall persistent_call(const LstmInputs& a) {
  const auto aligned = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  };
  const bool same = dtype_of(a.weight_hh) == dtype_of(a.input);  // else it is converted, to memory of its own
  return {.rows = a.batch(),
          .hidden = a.hidden(),
          .half = a.input.element_size() == 2,
          .projected = a.weight_hr.has_value(),
          .aligned = (!same || !a.weight_hh.is_contiguous() || aligned(a.weight_hh)) &&
                     (!a.h0.is_contiguous() || aligned(a.h0))};
}

// Runs all steps of `cell`, which has what they share. h: that of each row before, and then after them. Whether it did;
// if not, nothing has been done.
template <typename E>
bool run_persistent(const LstmInputs& a, const Steps& steps, const ForwardStep<E>& cell, const Tensor& h,
                    const Recurrence& how) {
  if constexpr (sizeof(E) == 2) {
    if (how.status == nullptr) return false;
    const PersistentDevice device = persistent_device();
    const PersistentPlan plan = how.persistent_tiles
                                    ? persistent_plan_with(*how.persistent_tiles, persistent_call(a), device)
                                    : persistent_plan(persistent_call(a), device);
    if (!plan) return false;
    const cudaStream_t stream = stream_of(a.input);
    const Tensor weight = converted(a.weight_hh, dtype_of(a.input));
    const Tensor exchange = empty({2 * a.batch(), a.hidden()}, dtype_of(a.input), a.input);
    const Tensor flags = empty({plan.blocks()}, ScalarType::Int, a.input);
    const Seed seed(a.seed);
    PersistentLaunch<E> launch{};
    launch.reversed = steps.reversed;
    launch.cell = cell;
    launch.weight = weight.const_data_ptr<E>();
    launch.seed = seed.there;
    launch.seed_value = seed.value;
    launch.threshold = keep_threshold(a.weight_dropout);
    launch.scale = static_cast<float>(1.0 / (1.0 - a.weight_dropout));
    launch.h = h.mutable_data_ptr<E>();
    launch.exchange = exchange.mutable_data_ptr<E>();
    launch.batch = a.batch();
    launch.flags = reinterpret_cast<Epoch*>(flags.mutable_data_ptr<int32_t>());
    launch.slices = plan.slices;
    launch.most_polls = how.most_polls;
    launch.status = how.status;

    // A batch of more than 128 different lengths takes several launches.
    std::vector<PackedRuns> launches;
    for_packed_runs(steps.sizes, steps.count, [&](const PackedRuns& runs) { launches.push_back(runs); });
    if (steps.reversed) std::reverse(launches.begin(), launches.end());
    // In the stream, and so in a graph's every replay: flags of an earlier call would let nobody wait.
    if (cudaMemsetAsync(launch.flags, 0, plan.blocks() * sizeof(Epoch), stream) != cudaSuccess)
      throw std::runtime_error("ulmfit_fast.ops.lstm: cannot clear the flags of the persistent kernel");
    Tensor begin = as_contiguous(a.h0);
    for (size_t i = 0; i < launches.size(); ++i) {
      if (i > 0) begin = copied(h, dtype_of(h));  // h is written while other blocks still read what it began with
      launch.runs = launches[i];
      launch.h0 = begin.const_data_ptr<E>();
      if (!persistent_forward<E>(stream, launch, plan)) {
        if (i == 0) return false;
        throw std::runtime_error(
            "ulmfit_fast.ops.lstm: the device refused to go on with the persistent kernel; set "
            "ULMFIT_FAST_CUDA_PERSISTENT=0");
      }
      for (int run = 0; run < launch.runs.count; ++run)
        launch.before += static_cast<Epoch>((launch.runs.end_of(run) - launch.runs.runs[run].first_row) /
                                            launch.runs.runs[run].rows);
    }
    return true;
  }
  return false;
}

}  // namespace ulmfit_fast::cuda
