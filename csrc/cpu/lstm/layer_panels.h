// The panels of one layer's weights: packed by a call for itself, or once for many (lstm_pack_kernel.cpp). Either way
// they are the same, so a call computes the same bits.
#pragma once

#include "../gemm/pack.h"
#include "lstm_kernel.h"

namespace ulmfit_fast::ULMFIT_ISA {

template <typename E>
struct LayerPanels {
  Word<E>*input, *recurrent;  // of W_ih and W_hh, in gate layout
  Word<E>* projection;        // of W_hr, if there is one

  // Bytes of all of them, those of W_ih only if asked for.
  int64_t carve(const LstmSizes& sizes, bool with_input, std::byte* at) {
    const int64_t gate_vectors = column_vectors<E>(sizes.hidden) * 4;
    Carver carver(at);
    input = carver.take<Word<E>>(with_input ? packed_words<E>(gate_vectors, sizes.input) : 0);
    recurrent = carver.take<Word<E>>(packed_words<E>(gate_vectors, sizes.output));
    projection =
        carver.take<Word<E>>(sizes.projected ? packed_words<E>(column_vectors<E>(sizes.output), sizes.hidden) : 0);
    return carver.taken();
  }
};

// Panel `p` of those in gate layout.
template <typename E>
static inline Panel<E> gate_panel(Word<E>* packed, int64_t p, int64_t depth) {
  return {packed + packed_words<E>(4 * p, depth), 4, depth};
}

template <typename E>
static inline void pack_projection_panel(const PanelSet<E>& set, int64_t p, const E* weight_hr,
                                         const LstmSizes& sizes) {
  pack_transposed_panel(set.panel(p), {{weight_hr, nullptr}, sizes.hidden, {}, nullptr}, sizes.output, set.column(p));
}

}  // namespace ulmfit_fast::ULMFIT_ISA
