// The LSTM's pointwise kernels on CUDA, as lstm_call.cpp launches them. All pointers are the device's.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

// dropped = weight o M / (1-p); `seed` is read on the device, so that no call waits for it. May be in place.
template <typename E>
void drop(cudaStream_t stream, E* dropped, const E* weight, const int64_t* seed, uint64_t threshold, double scale,
          int64_t elements);

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
void forward_step(cudaStream_t stream, const ForwardStep<E>& step);

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
void state_gradient(cudaStream_t stream, const StateGradient<E>& gradient);

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
void backward_step(cudaStream_t stream, const BackwardStep<E>& step);

}  // namespace ulmfit_fast::cuda
