// The QRNN's recurrence on CPU, compiled once per instruction set.
//
//   c_t = f z + (1 - f) c_{t-1},  h_t = o c_t, with z = tanh, f and o = sigmoid of the gates (common/forget_mult.h)
//
// A piece of work is some hidden units of some sequences over all steps, a vector of units at a time. The running cell
// states of a piece stay in L2; everything else is read or written once. Limit: the way to memory and back, with narrow
// vectors also exp. Each element is computed alone, so no result depends on other rows, pieces or threads.
#include "forget_mult_kernel.h"

#include "../../common/forget_mult.h"
#include "../lstm/cell_math.h"
#include "../lstm/pool.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

// One vector of a row's gates, activated.
template <typename E>
inline QrnnGates<Vec<E>> activated(const E* gates, const ForgetMultSizes& s, int64_t units) {
  QrnnGates<Vec<E>> gate;
  gate.z = Math::tanh(load(gates, units));
  gate.f = Math::sigmoid(load(gates + s.hidden, units));
  gate.o = s.output_gate ? Math::sigmoid(load(gates + 2 * s.hidden, units)) : broadcast<Accumulator<E>>(1);
  return gate;
}

// As it is read again from where it was stored.
template <typename E>
inline Vec<E> rounded(Vec<E> value) {
  if constexpr (sizeof(E) == sizeof(Accumulator<E>)) return value;
  E stored[kLanes<E>];
  store(stored, value);
  return load(stored);
}

// Rows of the piece at a step.
inline int64_t last_row(const ForgetMultSizes& s, const Columns& piece, int64_t t) {
  return t < s.steps ? smaller(piece.last_row, s.batch_sizes[t]) : 0;
}

template <typename E>
void forward(const ForgetMultForward<E>& a, const Columns& piece) {
  const FlushDenormals flush;
  const ForgetMultSizes& s = a.sizes;
  for (int64_t t = 0; t < s.steps && s.batch_sizes[t] > piece.first_row; ++t) {
    const int64_t last = last_row(s, piece, t), going_on = last_row(s, piece, t + 1);
    for (int64_t r = piece.first_row; r < last; ++r) {
      const int64_t row = s.offsets[t] + r;
      const E* gates = a.gates + row * s.width();
      Accumulator<E>* c = a.c + r * s.hidden;
      for (int64_t unit = piece.first_unit; unit < piece.last_unit; unit += kLanes<E>) {
        const int64_t units = piece.last_unit - unit;
        const QrnnGates<Vec<E>> gate = activated(gates + unit, s, units);
        const Vec<E> cell = qrnn_cell<Vec<E>>(gate, load(c + unit, units)), h = gate.o * cell;
        store(c + unit, cell, units);
        if (a.cells != nullptr) store(a.cells + row * s.hidden + unit, cell, units);
        if (a.output != nullptr) store(a.output + row * s.hidden + unit, h, units);
        if (r >= going_on) store(a.h_n + r * s.hidden + unit, h, units);
        if (a.pool.total != nullptr) add_to_pool<E>(a.pool, r, t, s.hidden, unit, rounded<E>(h));
      }
    }
  }
}

template <typename E>
void backward(const ForgetMultBackward<E>& a, const Columns& piece) {
  const FlushDenormals flush;
  const ForgetMultSizes& s = a.sizes;
  for (int64_t t = s.steps - 1; t >= 0; --t) {
    const int64_t last = last_row(s, piece, t), going_on = last_row(s, piece, t + 1);
    const bool cut = a.bptt > 0 && t > 0 && t % a.bptt == 0;
    for (int64_t r = piece.first_row; r < last; ++r) {
      const int64_t row = s.offsets[t] + r;
      const E* gates = a.gates + row * s.width();
      const Accumulator<E>*cells = a.cells + row * s.hidden,
            *previous = t == 0 ? a.c0 + r * s.hidden : a.cells + (s.offsets[t - 1] + r) * s.hidden;
      Accumulator<E>* grad_c = a.grad_c + r * s.hidden;
      E* grad_gates = a.grad_gates + row * s.width();
      for (int64_t unit = piece.first_unit; unit < piece.last_unit; unit += kLanes<E>) {
        const int64_t units = piece.last_unit - unit;
        Vec<E> grad_h = {};
        if (a.grad_output != nullptr) grad_h = load(a.grad_output + row * s.hidden + unit, units);
        if (a.grad_h_n != nullptr && r >= going_on) grad_h += load(a.grad_h_n + r * s.hidden + unit, units);
        if (a.pool.argmax != nullptr) grad_h += grad_of_pooled<E>(a.pool, r, t, s.hidden, unit);
        const QrnnGradient<Vec<E>> grad =
            qrnn_backward<Vec<E>>(activated(gates + unit, s, units), load(cells + unit, units),
                                  load(previous + unit, units), grad_h, load(grad_c + unit, units));
        store(grad_gates + unit, grad.z, units);
        store(grad_gates + s.hidden + unit, grad.f, units);
        if (s.output_gate) store(grad_gates + 2 * s.hidden + unit, grad.o, units);
        store(grad_c + unit, cut ? Vec<E>{} : grad.cell_previous, units);
      }
    }
  }
}

template <typename E>
constexpr ForgetMultKernels<E> kernels_of = {kLanes<E>, forward<E>, backward<E>};

}  // namespace

extern const ForgetMultKernels<float> forget_mult_float;
extern const ForgetMultKernels<double> forget_mult_double;
extern const ForgetMultKernels<Bfloat16> forget_mult_bfloat16;
const ForgetMultKernels<float> forget_mult_float = kernels_of<float>;
const ForgetMultKernels<double> forget_mult_double = kernels_of<double>;
const ForgetMultKernels<Bfloat16> forget_mult_bfloat16 = kernels_of<Bfloat16>;

}  // namespace ulmfit_fast::ULMFIT_ISA
