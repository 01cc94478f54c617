// What flows back into h, by a product of the project's own with the weight as it is, where sizes and device allow it.
#pragma once

#include "fused_weight.h"
#include "lstm_fused_product.h"

namespace ulmfit_fast::cuda {

template <typename E>
class FusedBackward {
 public:
  // `rows`: of the widest step, of all chunks together.
  static std::optional<FusedBackward> of(const LstmInputs& a, int64_t rows, const Recurrence& how) {
    const std::optional<FusedWeight<E>> weight = FusedWeight<E>::of(a, rows, how);
    return weight ? std::optional(FusedBackward(*weight, how.tiles)) : std::nullopt;
  }

  // Queues gates [rows, 4H] x W_hh, and says in `state` where it will stand.
  void run(cudaStream_t stream, const Tensor& gates, StateGradient<E>& state) {
    const int64_t rows = gates.size(0), hidden = state.width;
    ProductTiles tiles = product_tiles(rows, hidden, weight_.processors);
    if (tiles_) tiles.row_tiles = tiles_->row_tiles;
    const int64_t elements = tiles.splits * rows * hidden;
    if (!parts_.has_value() || parts_->numel() < elements) parts_ = empty({elements}, ScalarType::Float, gates);
    const FusedProduct<E> product{.rows = rows,
                                  .hidden = hidden,
                                  .gates = gates.const_data_ptr<E>(),
                                  .weight = weight_.elements(),
                                  .keep = weight_.bits(),
                                  .parts = parts_->mutable_data_ptr<float>(),
                                  .splits = tiles.splits};
    if constexpr (sizeof(E) == 2) {
      fused_product<E>(stream, product, tiles.row_tiles);
      state.from_next = product.parts;
      state.parts = tiles.splits;
      state.part_elements = rows * hidden;
      state.scale = weight_.scale;
    }
  }

 private:
  FusedBackward(const FusedWeight<E>& weight, const std::optional<FusedTiles>& tiles)
      : weight_(weight), tiles_(tiles) {}

  FusedWeight<E> weight_;
  std::optional<FusedTiles> tiles_;
  OptionalTensor parts_;
};

}  // namespace ulmfit_fast::cuda
