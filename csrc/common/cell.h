// The LSTM cell's pointwise math, forward and backward, for one float or one SIMD vector of units.
//
// `V` is anything with arithmetic, `Math` its sigmoid and tanh: vectors on CPU, scalars on CUDA.
#pragma once

#include "philox.h"  // ULMFIT_HOST_DEVICE

namespace ulmfit_fast {

// Activated gates in torch's order.
template <typename V>
struct Gates {
  V i, f, g, o;
};

template <typename V>
struct CellGradient {
  Gates<V> pre_activation;  // d loss / d a for the four gates, before their non-linearities
  V cell_previous;          // d loss / d c_{t-1}
};

template <typename Math, typename V>
ULMFIT_HOST_DEVICE static inline Gates<V> activate(V a_i, V a_f, V a_g, V a_o) {
  return {Math::sigmoid(a_i), Math::sigmoid(a_f), Math::tanh(a_g), Math::sigmoid(a_o)};
}

// c_t = f c_{t-1} + i g
template <typename V>
ULMFIT_HOST_DEVICE static inline V cell_state(const Gates<V>& gate, V cell_previous) {
  return gate.f * cell_previous + gate.i * gate.g;
}

// grad_cell: what already flows into c_t from step t+1; grad_output: d loss / d (o tanh(c_t)).
template <typename Math, typename V>
ULMFIT_HOST_DEVICE static inline CellGradient<V> cell_backward(const Gates<V>& gate, V cell, V cell_previous,
                                                               V grad_output, V grad_cell) {
  const V tanh_cell = Math::tanh(cell);
  const V grad_c = grad_cell + grad_output * gate.o * (1 - tanh_cell * tanh_cell);
  return {{grad_c * gate.g * gate.i * (1 - gate.i), grad_c * cell_previous * gate.f * (1 - gate.f),
           grad_c * gate.i * (1 - gate.g * gate.g), grad_output * tanh_cell * gate.o * (1 - gate.o)},
          grad_c * gate.f};
}

}  // namespace ulmfit_fast
