// The recurrence of one call with one launch a step, where its sizes and the device allow it.
#pragma once

#include "fused_weight.h"

namespace ulmfit_fast::cuda {

template <typename E>
class FusedForward {
 public:
  // None where each step takes a product and a launch of the cell. `output`: [N, H], or empty where nobody wants it.
  static std::optional<FusedForward> of(const LstmInputs& a, const Steps& steps, const Tensor& output,
                                        const Recurrence& how) {
    const std::optional<FusedWeight<E>> weight = FusedWeight<E>::of(a, a.batch(), how);
    return weight ? std::optional(FusedForward(a, steps, output, *weight, how.tiles)) : std::nullopt;
  }

  // Step s, all of which is set but where h stands.
  void run(cudaStream_t stream, ForwardStep<E> cell, int64_t s) const {
    cell.output = states_.mutable_data_ptr<E>();
    cell.output_row = row(s);
    const FusedForwardStep<E> step{.cell = cell,
                                   .weight = weight_.elements(),
                                   .keep = weight_.bits(),
                                   .scale = weight_.scale,
                                   .h0 = h0_.const_data_ptr<E>(),
                                   .previous_row = s > 0 ? row(s - 1) : 0,
                                   .continuing = steps_.continuing(s)};
    if constexpr (sizeof(E) == 2)
      fused_forward_step<E>(stream, step, tiles_ ? *tiles_ : fused_tiles(cell.rows, cell.hidden, weight_.processors));
  }

 private:
  FusedForward(const LstmInputs& a, const Steps& steps, const Tensor& output, const FusedWeight<E>& weight,
               const std::optional<FusedTiles>& tiles)
      : steps_(steps),
        weight_(weight),
        h0_(as_contiguous(a.h0)),
        states_(output.numel() > 0 ? output : empty({2 * a.batch(), a.hidden()}, dtype_of(a.input), a.input)),
        of_two_steps_(output.numel() > 0 ? 0 : a.batch()),
        tiles_(tiles) {}

  int64_t row(int64_t s) const { return of_two_steps_ > 0 ? s % 2 * of_two_steps_ : steps_.first_row(s); }

  const Steps& steps_;
  FusedWeight<E> weight_;
  Tensor h0_, states_;  // states: h of every step, or of this one and the one before
  int64_t of_two_steps_;
  std::optional<FusedTiles> tiles_;
};

}  // namespace ulmfit_fast::cuda
