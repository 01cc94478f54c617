// The QRNN cell's pointwise math, forward and backward, for one float or one SIMD vector of units.
//
//   c_t = f z + (1 - f) c_{t-1},  h_t = o c_t   with z = tanh, f and o = sigmoid of what the layer's product gave
//
// `V` is anything with arithmetic, `Math` its sigmoid and tanh. Source: Bradbury et al., arXiv 1611.01576, equation 4;
// f is fastai's, the share of what is new (in the paper 1 - f).
#pragma once

#include "philox.h"  // ULMFIT_HOST_DEVICE

namespace ulmfit_fast {

// Activated. o is 1 without an output gate.
template <typename V>
struct QrnnGates {
  V z, f, o;
};

template <typename V>
struct QrnnGradient {
  V z, f, o;        // d loss / d what the product gave
  V cell_previous;  // d loss / d c_{t-1}
};

template <typename V>
ULMFIT_HOST_DEVICE static inline V qrnn_cell(const QrnnGates<V>& gate, V cell_previous) {
  return cell_previous + gate.f * (gate.z - cell_previous);
}

// grad_output: d loss / d h_t; grad_cell: what already flows into c_t from step t+1.
template <typename V>
ULMFIT_HOST_DEVICE static inline QrnnGradient<V> qrnn_backward(const QrnnGates<V>& gate, V cell, V cell_previous,
                                                               V grad_output, V grad_cell) {
  const V grad_c = grad_cell + grad_output * gate.o;
  return {grad_c * gate.f * (1 - gate.z * gate.z), grad_c * (gate.z - cell_previous) * gate.f * (1 - gate.f),
          grad_output * cell * gate.o * (1 - gate.o), grad_c * (1 - gate.f)};
}

}  // namespace ulmfit_fast
