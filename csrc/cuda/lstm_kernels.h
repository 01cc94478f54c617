// The LSTM's pointwise kernels on CUDA, as lstm_call.cpp launches them. All pointers are the device's.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

// dropped = weight o M / (1-p). May be in place. `seed` is read on the device, so that no call waits for it; where it
// is null, `seed_value` is the seed.
template <typename E>
void drop(cudaStream_t stream, E* dropped, const E* weight, const int64_t* seed, int64_t seed_value, uint64_t threshold,
          double scale, int64_t elements);

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
  const Acc* from_state;  // [rows, 4H] h_{t-1} W_hh^T, where the step is not fused
  const Acc* bias;        // [4H] or null
  Acc* c;                 // [B, H] running
  E* cell_output;         // [rows, H] o tanh(c): h without a projection
  E* output;              // [N, H] or null: the same from `output_row` on
  E* gates;               // [N, 4H] or null
  Acc* cells;             // [N, H] or null
  PoolStep<Acc> pool;
  int64_t output_row;  // the packed row, but where `output` has room for two steps alone
};

template <typename E>
void forward_step(cudaStream_t stream, const ForwardStep<E>& step);

// Rows of one step of backward that lie one after the other in the packed batch. A launch takes several such groups:
// where gradients stop every `bptt` steps, the same step of each chunk of time.
struct StepRows {
  int64_t begin;         // where they begin among the rows of all groups
  int64_t row;           // and in the packed batch
  int64_t step;          // of time
  int64_t state;         // where the gradients of their cell states are held
  int64_t previous_row;  // where the rows of the step computed before begin in the packed batch
  int64_t continuing;    // rows that the step computed before also had; the others began with h0 and c0
  int64_t next;          // where the rows of the step computed after begin among those of all its groups
  int64_t continued;     // rows that get gradients from there
  int64_t going_on;      // rows that the step computed after also has
};

constexpr int kMostGroups = 32;  // of a launch, whose parameters carry them

template <int most>
struct StepGroups {
  int64_t end;  // of their rows among the rows of all groups
  int count;
  StepRows groups[most];
};

// What flows into h of a step: from the step computed after, the outputs and the pooled state.
template <typename E>
struct StateGradient {
  using Acc = Accumulator<E>;
  int64_t width;
  const Acc* from_next;  // grad a_{t+1} W_hh of all groups' rows, [.., P]: so many parts of it, each of so many
  int64_t parts, part_elements;
  Acc scale;                // elements, and what multiplies their sum
  const E* grad_output;     // [N, P] or null
  const E* grad_h_n;        // [B, P] or null
  const Acc* grad_total;    // [D, P] or null, as are the next
  const Acc* grad_maximum;  // [D, P]
  const int32_t* argmax;    // [D, P] null: no pooling
  const int64_t* count;
  const int64_t* pool_from;
};

// One step backward. With a projection the gradient of o tanh(c) is a product of what state_gradient writes; without,
// h is o tanh(c), and backward_step needs nothing else.
template <typename E>
struct BackwardStep {
  using Acc = Accumulator<E>;
  int64_t hidden;
  StateGradient<E> state;
  const Acc* grad_cell_output;  // [rows of all groups, H] or null: it is that of h
  const E* gates;               // [N, 4H]
  const Acc* cells;             // [N, H]
  const Acc* c0;                // [B, H]
  const Acc* grad_c_n;          // [B, H] or null
  Acc* grad_c;                  // [chunks' sequences, H] running: of c before the step
  E* grad_gates;                // [N, 4H] written: before their non-linearities
  E* together;                  // [rows of all groups, 4H] or null: written with the same, group after group
  E* first;                     // [B, 4H] or null: written with those of each sequence's first computed step
};

// Of each row of the groups what flows into h, to its packed place and to its place among the groups' rows, or null.
template <typename E>
void state_gradient(cudaStream_t stream, const StateGradient<E>& gradient, E* packed, E* together,
                    const StepRows* groups, int count, int64_t rows);

// `rows`: of all groups.
template <typename E>
void backward_step(cudaStream_t stream, const BackwardStep<E>& step, const StepRows* groups, int count, int64_t rows);

}  // namespace ulmfit_fast::cuda
