// The LSTM's pointwise kernels: one thread owns one unit of one row of one step. Matrix products come from outside.
// Limit: memory bandwidth, and the launches themselves. Deterministic: no thread sums over others.
#pragma once

#include "../common/cell.h"
#include "elements.h"

namespace ulmfit_fast::cuda {

template <typename Acc>
struct Math {
  __device__ static Acc sigmoid(Acc x) { return Acc(1) / (Acc(1) + exp(-x)); }
  __device__ static Acc tanh(Acc x) { return ::tanh(x); }
};

// dropped = weight o M / (1-p); `seed` is read on the device, so that no call waits for it. May be in place.
template <typename E>
__global__ void drop_kernel(E* dropped, const E* weight, const int64_t* seed, uint64_t threshold, double scale,
                            int64_t elements) {
  const int64_t counter = thread_index();
  if (counter * 4 >= elements) return;
  uint32_t bits[4];
  philox4x32(static_cast<uint64_t>(*seed), static_cast<uint64_t>(counter), bits);
  for (int64_t i = counter * 4; i < elements && i < counter * 4 + 4; ++i) {
    const auto value = static_cast<Accumulator<E>>(weight[i]) * static_cast<Accumulator<E>>(scale);
    dropped[i] = bits[i % 4] >= threshold ? static_cast<E>(value) : static_cast<E>(0);
  }
}

// Pooling of one step; total is null where nothing is pooled. Rows belong to documents of the same index.
template <typename Acc>
struct PoolStep {
  double* total;             // [D, H]
  Acc* maximum;              // [D, H]
  int32_t* argmax;           // [D, H]
  const int64_t* count;      // [D] steps before this call
  const int64_t* pool_from;  // [D]
};

// One step forward of `rows` rows that begin at packed row `first_row`; null pointers are not written.
template <typename E>
struct ForwardStep {
  using Acc = Accumulator<E>;
  int64_t rows, first_row, hidden, step;
  const Acc* from_input;  // [N, 4H] x W_ih^T
  const Acc* from_state;  // [rows, 4H] h_{t-1} W_hh^T
  const Acc* bias;        // [4H] or null
  Acc* c;                 // [B, H] running
  E* cell_output;         // [rows, H] o tanh(c): h without a projection
  E* output;              // [N, H] or null: the same at its packed row
  E* gates;               // [N, 4H] or null
  Acc* cells;             // [N, H] or null
  PoolStep<Acc> pool;
};

template <typename E>
__global__ void forward_step_kernel(ForwardStep<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.hidden) return;
  const int64_t r = index / a.hidden, unit = index % a.hidden, row = a.first_row + r;
  Acc pre[4];
  for (int gate = 0; gate < 4; ++gate) {
    const int64_t column = gate * a.hidden + unit;
    pre[gate] = a.from_input[row * 4 * a.hidden + column] + a.from_state[r * 4 * a.hidden + column];
    if (a.bias != nullptr) pre[gate] += a.bias[column];
  }
  const Gates<Acc> gate = activate<Math<Acc>>(pre[0], pre[1], pre[2], pre[3]);
  const Acc cell = cell_state(gate, a.c[index]);
  const E h = static_cast<E>(gate.o * Math<Acc>::tanh(cell));
  a.c[index] = cell;
  a.cell_output[index] = h;
  if (a.output != nullptr) a.output[row * a.hidden + unit] = h;
  if (a.cells != nullptr) a.cells[row * a.hidden + unit] = cell;
  if (a.gates != nullptr) {
    E* saved = a.gates + row * 4 * a.hidden + unit;
    saved[0] = static_cast<E>(gate.i);
    saved[a.hidden] = static_cast<E>(gate.f);
    saved[2 * a.hidden] = static_cast<E>(gate.g);
    saved[3 * a.hidden] = static_cast<E>(gate.o);
  }
  if (a.pool.total == nullptr) return;
  const int64_t step = a.pool.count[r] + a.step;
  if (step < a.pool.pool_from[r]) return;
  const Acc state = static_cast<Acc>(h);
  a.pool.total[index] += state;
  if (state > a.pool.maximum[index]) {
    a.pool.maximum[index] = state;
    a.pool.argmax[index] = static_cast<int32_t>(step);
  }
}

// The gradient that flows into h of one step.
template <typename E>
struct StateGradient {
  using Acc = Accumulator<E>;
  int64_t rows, first_row, width, step;
  int64_t continued;        // rows that the next step of computation also has
  const Acc* from_next;     // [continued, P] grad a_{t+1} W_hh, or null: gradients stop here
  const E* grad_output;     // [N, P] or null
  const E* grad_h_n;        // [B, P] or null
  const Acc* grad_total;    // [D, P] or null, as are the next
  const Acc* grad_maximum;  // [D, P]
  const int32_t* argmax;    // [D, P] null: no pooling
  const int64_t* count;
  const int64_t* pool_from;
  Acc* grad_h;  // [rows, P] written
  E* stored;    // [N, P] written at the packed row, or null
};

template <typename E>
__global__ void state_gradient_kernel(StateGradient<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.width) return;
  const int64_t r = index / a.width, row = a.first_row + r, column = index % a.width;
  Acc grad = a.grad_output != nullptr ? static_cast<Acc>(a.grad_output[row * a.width + column]) : Acc(0);
  if (a.argmax != nullptr) {
    const int64_t step = a.count[r] + a.step;
    if (step >= a.pool_from[r]) {
      if (a.grad_total != nullptr) grad += a.grad_total[index];
      if (a.grad_maximum != nullptr && a.argmax[index] == step) grad += a.grad_maximum[index];
    }
  }
  if (r >= a.continued) {
    if (a.grad_h_n != nullptr) grad += static_cast<Acc>(a.grad_h_n[index]);
  } else if (a.from_next != nullptr) {
    grad += a.from_next[index];
  }
  a.grad_h[index] = grad;
  if (a.stored != nullptr) a.stored[row * a.width + column] = static_cast<E>(grad);
}

// One step backward: from the gradient of o tanh(c) to that of the gates before their non-linearities.
template <typename E>
struct BackwardStep {
  using Acc = Accumulator<E>;
  int64_t rows, first_row, hidden;
  int64_t continuing, previous_row;  // rows that the step of computation before also had, and where they begin
  int64_t cut_rows;                  // rows below this one take no gradient of c from the next step
  const Acc* grad_cell_output;       // [rows, H]
  const E* gates;                    // [N, 4H]
  const Acc* cells;                  // [N, H]
  const Acc* c0;                     // [B, H]
  Acc* grad_c;                       // [B, H] running
  E* grad_gates;                     // [N, 4H] written
};

template <typename E>
__global__ void backward_step_kernel(BackwardStep<E> a) {
  using Acc = Accumulator<E>;
  const int64_t index = thread_index();
  if (index >= a.rows * a.hidden) return;
  const int64_t r = index / a.hidden, unit = index % a.hidden, row = a.first_row + r;
  const E* saved = a.gates + row * 4 * a.hidden + unit;
  const Gates<Acc> gate = {static_cast<Acc>(saved[0]), static_cast<Acc>(saved[a.hidden]),
                           static_cast<Acc>(saved[2 * a.hidden]), static_cast<Acc>(saved[3 * a.hidden])};
  const Acc previous = r < a.continuing ? a.cells[(a.previous_row + r) * a.hidden + unit] : a.c0[index];
  const Acc from_next = r < a.cut_rows ? Acc(0) : a.grad_c[index];
  const CellGradient<Acc> grad =
      cell_backward<Math<Acc>>(gate, a.cells[row * a.hidden + unit], previous, a.grad_cell_output[index], from_next);
  a.grad_c[index] = grad.cell_previous;
  E* out = a.grad_gates + row * 4 * a.hidden + unit;
  out[0] = static_cast<E>(grad.pre_activation.i);
  out[a.hidden] = static_cast<E>(grad.pre_activation.f);
  out[2 * a.hidden] = static_cast<E>(grad.pre_activation.g);
  out[3 * a.hidden] = static_cast<E>(grad.pre_activation.o);
}

}  // namespace ulmfit_fast::cuda
