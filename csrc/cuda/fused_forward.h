// The recurrence of one call with one launch a step, where its sizes and the device allow it.
#pragma once

#include "../common/philox.h"
#include "lstm_call.h"
#include "lstm_fused_step.h"
#include "lstm_steps.h"
#include "tensors.h"

namespace ulmfit_fast::cuda {

template <typename E>
class FusedForward {
 public:
  // None where each step takes a product and a launch of the cell. `output`: [N, H], or empty where nobody wants it.
  static std::optional<FusedForward> of(const LstmInputs& a, const Steps& steps, const Tensor& output,
                                        const Recurrence& how) {
    if (sizeof(E) != 2 || !how.fused) return std::nullopt;
    int device = 0, major = 0, minor = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const Tensor weight = converted(a.weight_hh, dtype_of(a.input)), h0 = as_contiguous(a.h0);
    const auto aligned = [](const Tensor& tensor) {
      return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
    };
    const FusedCall call{.rows = a.batch(),
                         .hidden = a.hidden(),
                         .half = true,
                         .projected = a.weight_hr.has_value(),
                         .aligned = aligned(weight) && aligned(h0),
                         .capability = 10 * major + minor};
    if (!can_fuse(call)) return std::nullopt;
    return FusedForward(a, steps, output, weight, h0, how.tiles, processors);
  }

  // Step s, all of which is set but where h stands.
  void run(cudaStream_t stream, ForwardStep<E> cell, int64_t s) const {
    cell.output = states_.mutable_data_ptr<E>();
    cell.output_row = row(s);
    const FusedForwardStep<E> step{.cell = cell,
                                   .weight = weight_.const_data_ptr<E>(),
                                   .keep = keep_.has_value() ? keep_->const_data_ptr<uint8_t>() : nullptr,
                                   .scale = scale_,
                                   .h0 = h0_.const_data_ptr<E>(),
                                   .previous_row = s > 0 ? row(s - 1) : 0,
                                   .continuing = steps_.continuing(s)};
    if constexpr (sizeof(E) == 2)
      fused_forward_step<E>(stream, step, tiles_ ? *tiles_ : fused_tiles(cell.rows, cell.hidden, processors_));
  }

 private:
  FusedForward(const LstmInputs& a, const Steps& steps, const Tensor& output, const Tensor& weight, const Tensor& h0,
               const std::optional<FusedTiles>& tiles, int processors)
      : steps_(steps),
        weight_(weight),
        h0_(h0),
        states_(output.numel() > 0 ? output : empty({2 * a.batch(), a.hidden()}, dtype_of(a.input), a.input)),
        of_two_steps_(output.numel() > 0 ? 0 : a.batch()),
        tiles_(tiles),
        processors_(processors) {
    if (a.weight_dropout == 0.0) return;
    scale_ = static_cast<float>(1.0 / (1.0 - a.weight_dropout));
    keep_ = empty({weight.numel() / 8}, ScalarType::Byte, a.input);
    const Seed seed(a.seed);
    draw_keep_bits(stream_of(a.input), keep_->mutable_data_ptr<uint8_t>(), seed.there, seed.value,
                   keep_threshold(a.weight_dropout), weight.numel());
  }

  int64_t row(int64_t s) const { return of_two_steps_ > 0 ? s % 2 * of_two_steps_ : steps_.first_row(s); }

  const Steps& steps_;
  Tensor weight_, h0_, states_;  // states: h of every step, or of this one and the one before
  int64_t of_two_steps_;
  OptionalTensor keep_;
  float scale_ = 1;
  std::optional<FusedTiles> tiles_;
  int processors_;
};

}  // namespace ulmfit_fast::cuda
