// The QRNN's recurrence on CUDA, as forget_mult.cpp launches it. All pointers are the device's.
//
// A run is some steps that have equally many rows: its rows lie one after the other, step by step.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

struct QrnnRun {
  int64_t first_step, steps, rows, first_row, hidden;
  int64_t chunks;  // into which its steps are cut, each with its own threads; 1: none
  bool output_gate;

  constexpr int64_t columns() const { return rows * hidden; }
};

template <typename E>
struct QrnnForward {
  using Acc = Accumulator<E>;
  QrnnRun run;
  const E* gates;  // [N, 3H or 2H]
  E* output;       // [N, H] written
  E* h_n;          // [B, H] written: the last step's h of each of the run's rows
  Acc* cells;      // [N, H] written, or null
  Acc* c;          // [B, H] the states before the run; on return those after it
  Acc* scratch;    // [2, chunks, rows, H] where there are chunks
};

template <typename E>
void forward_run(cudaStream_t stream, const QrnnForward<E>& run);

// Adds the run's h to the pooled states of its rows, step by step.
template <typename E>
struct QrnnPool {
  using Acc = Accumulator<E>;
  QrnnRun run;
  const E* output;           // [N, H]
  double* total;             // [D, H]
  Acc* maximum;              // [D, H]
  int32_t* argmax;           // [D, H]
  const int64_t* count;      // [D] steps before this call
  const int64_t* pool_from;  // [D]
};

template <typename E>
void pool_run(cudaStream_t stream, const QrnnPool<E>& run);

template <typename E>
struct QrnnBackward {
  using Acc = Accumulator<E>;
  QrnnRun run;
  int64_t going_on;         // rows that have steps after this run
  int64_t bptt;             // gradients do not cross multiples of it; 0: they do
  int64_t previous_row;     // where the rows of the step before the run begin, -1 before the first
  const E* gates;           // [N, 3H or 2H]
  const Acc* cells;         // [N, H]
  const Acc* c0;            // [B, H]
  const E* grad_output;     // [N, H] or null
  const E* grad_h_n;        // [B, H] or null
  const Acc* grad_total;    // [D, H] or null
  const Acc* grad_maximum;  // [D, H] or null
  const int32_t* argmax;    // [D, H]; null: no pooling
  const int64_t* count;
  const int64_t* pool_from;
  Acc* grad_c;    // [B, H] what flows into the states after the run; on return into those before it
  E* grad_gates;  // [N, 3H or 2H] written
  Acc* scratch;   // as above
};

template <typename E>
void backward_run(cudaStream_t stream, const QrnnBackward<E>& run);

}  // namespace ulmfit_fast::cuda
