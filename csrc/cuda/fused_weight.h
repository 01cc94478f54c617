// The recurrent weight as fused steps take it: as it is, beside the mask's bits.
#pragma once

#include "../common/philox.h"
#include "lstm_call.h"
#include "lstm_fused_step.h"
#include "lstm_steps.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {

template <typename E>
struct FusedWeight {
  // None where sizes or device do not allow it, or nobody wants it. `rows`: of the widest step.
  static std::optional<FusedWeight> of(const LstmInputs& a, int64_t rows, const Recurrence& how) {
    if (sizeof(E) != 2 || !how.fused) return std::nullopt;
    int device = 0, major = 0, minor = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const Tensor weight = converted(a.weight_hh, dtype_of(a.input));
    const auto aligned = [](const Tensor& tensor) {
      return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
    };
    const FusedCall call{.rows = rows,
                         .hidden = a.hidden(),
                         .half = true,
                         .projected = a.weight_hr.has_value(),
                         .aligned = aligned(weight) && aligned(a.h0),
                         .capability = 10 * major + minor};
    if (!can_fuse(call)) return std::nullopt;
    FusedWeight result{.weight = weight, .keep = std::nullopt, .scale = 1, .processors = processors};
    if (a.weight_dropout == 0.0) return result;
    result.scale = static_cast<float>(1.0 / (1.0 - a.weight_dropout));
    result.keep = empty({weight.numel() / 8}, ScalarType::Byte, a.input);
    const Seed seed(a.seed);
    draw_keep_bits(stream_of(a.input), result.keep->mutable_data_ptr<uint8_t>(), seed.there, seed.value,
                   keep_threshold(a.weight_dropout), weight.numel());
    return result;
  }

  const E* elements() const { return weight.const_data_ptr<E>(); }
  const uint8_t* bits() const { return keep.has_value() ? keep->const_data_ptr<uint8_t>() : nullptr; }

  Tensor weight;
  OptionalTensor keep;
  float scale;
  int processors;
};

}  // namespace ulmfit_fast::cuda
