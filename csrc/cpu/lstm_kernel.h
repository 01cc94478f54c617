// What lstm.cpp (torch) and lstm_kernel.cpp (compiled once per instruction set, no torch) agree on.
//
// Rows are packed, time-major: step t holds rows offsets[t] .. offsets[t] + batch_sizes[t]. All tensors are contiguous,
// row-major; T is float or double. Nothing aliases unless said.
#pragma once

#include <cstdint>

#include "../common/philox.h"
#include "team.h"

namespace ulmfit_fast {

struct LstmSizes {
  int64_t steps, rows, batch;     // T, N = sum(batch_sizes), B = batch_sizes[0]
  int64_t input, hidden, output;  // F, H, and the width of h: P with a projection, else H
  bool projected;                 // h = (o tanh(c)) W_hr^T
  bool reverse;                   // from each row's last step to its first
  const int64_t* batch_sizes;     // [T] non-increasing
  const int64_t* offsets;         // [T]

  // The recurrence's s-th step in order of computation.
  ULMFIT_ALWAYS_INLINE int64_t step(int64_t s) const { return reverse ? steps - 1 - s : s; }
};

template <typename T>
struct LstmForward {
  LstmSizes sizes;
  DropConnect dropconnect;
  bool round_state;    // round h to bfloat16 after each step (the caller's dtype); c stays as it is
  bool save;           // keep gates and cells for backward
  const T* input;      // [N, F]
  const T* h0;         // [B, P]
  const T* weight_ih;  // [4H, F]
  const T* weight_hh;  // [4H, P]
  const T* weight_hr;  // [P, H] or null
  const T* bias;       // [4H], both biases summed
  T* output;           // [N, P]       written
  T* gates;            // [N, 4H] written if save (activated i, f, g, o), else scratch [chunk_rows, 4H]
  T* cells;            // [N, H] written if save, else null
  T* c;                // [B, H] holds c0; on return each row's last cell state
  T* cell_output;      // scratch [B, H] with a projection (o tanh(c) of the step), else null
  int64_t chunk_rows;  // rows whose input projection is computed at a time: at least B
  T* scratch;
  int64_t scratch_stride;
};

template <typename T>
struct LstmBackward {
  LstmSizes sizes;
  DropConnect dropconnect;
  const T* grad_output;  // [N, P] or null
  const T* grad_h_n;     // [B, P] or null
  const T* c0;           // [B, H]
  const T* weight_hh;    // [4H, P]
  const T* weight_hr;    // [P, H] or null
  const T* gates;        // [N, 4H]
  const T* cells;        // [N, H]
  T* grad_gates;         // [N, 4H]   written: before the non-linearities
  T* grad_h;             // [N, P]    written with a projection (total gradient of each h), else null
  T* grad_h0;            // [B, P]    written
  T* grad_c;             // [B, H] holds grad_c_n; on return grad_c0
  T* scratch;
  int64_t scratch_stride;
};

// The entry points of one instruction set. `forward` and `backward` run on every thread of the team at once; `scratch`
// is shared, `scratch_stride` elements a slice, as the two *_scratch functions say.
template <typename T>
struct LstmKernels {
  int64_t units_per_panel;  // hidden units in the smallest piece of work that can go to a thread
  int64_t (*forward_scratch)(const LstmSizes&, int64_t slices);
  int64_t (*backward_scratch)(const LstmSizes&, int64_t slices);
  void (*forward)(const LstmForward<T>&, Member);
  void (*backward)(const LstmBackward<T>&, Member);
};

// Of the instruction set in use.
template <typename T>
const LstmKernels<T>& lstm_kernels();

}  // namespace ulmfit_fast
