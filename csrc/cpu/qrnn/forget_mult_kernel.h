// What forget_mult.cpp (torch) and forget_mult_kernel.cpp (compiled once per instruction set) agree on. Torch-free.
//
// Rows are packed and tensors contiguous, as in lstm_kernel.h.
#pragma once

#include "../lstm/lstm_kernel.h"

namespace ulmfit_fast {

struct ForgetMultSizes {
  int64_t steps, batch, hidden;
  const int64_t* batch_sizes;  // [T]
  const int64_t* offsets;      // [T]
  bool output_gate;

  ULMFIT_ALWAYS_INLINE int64_t width() const { return (output_gate ? 3 : 2) * hidden; }  // of a row of gates
};

// Some units of some sequences over all steps: a piece of work.
struct Columns {
  int64_t first_row, last_row, first_unit, last_unit;
};

template <typename E>
struct ForgetMultForward {
  ForgetMultSizes sizes;
  Pool<E> pool;
  const E* gates;         // [N, width]
  E* output;              // [N, H] written, or null
  E* h_n;                 // [B, H] written
  Accumulator<E>* cells;  // [N, H] written, or null
  Accumulator<E>* c;      // [B, H] holds c0; on return each row's last cell state
};

template <typename E>
struct ForgetMultBackward {
  ForgetMultSizes sizes;
  PoolGradient<E> pool;
  int64_t bptt;                 // gradients do not cross multiples of it; 0: they do
  const E* gates;               // [N, width]
  const Accumulator<E>* cells;  // [N, H]
  const Accumulator<E>* c0;     // [B, H]
  const E* grad_output;         // [N, H] or null
  const E* grad_h_n;            // [B, H] or null
  Accumulator<E>* grad_c;       // [B, H] holds grad_c_n; on return grad_c0
  E* grad_gates;                // [N, width] written
};

template <typename E>
struct ForgetMultKernels {
  int64_t lanes;  // units of a vector: pieces begin at a multiple of it
  void (*forward)(const ForgetMultForward<E>&, const Columns&);
  void (*backward)(const ForgetMultBackward<E>&, const Columns&);
};

// The kernels of the instruction set in use.
template <typename E>
const ForgetMultKernels<E>& forget_mult_kernels();

}  // namespace ulmfit_fast
