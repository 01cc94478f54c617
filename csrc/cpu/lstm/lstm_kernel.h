// What lstm_call.cpp (torch) and the lstm_*_kernel.cpp files (compiled once per instruction set, no torch) agree on.
//
// Rows are packed, time-major: step t holds rows offsets[t] .. offsets[t] + batch_sizes[t]. All tensors are contiguous,
// row-major; E is float, double or Bfloat16, and Accumulator<E> (float for Bfloat16) holds sums and cell states.
// Nothing aliases unless said.
#pragma once

#include <cstdint>

#include "../../common/philox.h"
#include "../gemm/weight.h"
#include "../runtime/team.h"

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

// Pooling over time: what the forward of a batch adds to the pooled state of each of its sequences. Step t of row r is
// step first_step[r] + t of its document; steps before pool_from[r] are not pooled.
template <typename E>
struct Pool {
  double* total;              // [B, P] running sum; null: no pooling
  Accumulator<E>* maximum;    // [B, P] running maximum
  int32_t* argmax;            // [B, P] the document's step of the maximum, the first where equal
  const int64_t* first_step;  // [B]
  const int64_t* pool_from;   // [B]
};

// The gradients of a pooled state, as they flow into the states that were pooled. A row is a chunk of a document.
template <typename E>
struct PoolGradient {
  const Accumulator<E>* total;    // [documents, P] or null
  const Accumulator<E>* maximum;  // [documents, P] or null
  const int32_t* argmax;          // [documents, P]; null: no pooling
  const int64_t* document;        // [B]
  const int64_t* first_step;      // [B]
  const int64_t* pool_from;       // [B]
};

template <typename E>
struct LstmForward {
  LstmSizes sizes;
  DropConnect dropconnect;
  Grid grid;
  Pool<E> pool;
  bool keep_output;            // else output is [2, B, P]: of the step and of the one before it
  const E* input;              // [N, F]
  const E* h0;                 // [B, P]
  Weight<E> weight_ih;         // [4H, F]
  Weight<E> weight_hh;         // [4H, P]
  const E* weight_hr;          // [P, H] or null
  const std::byte* packed;     // what `pack` made of the weights, which are then not read; or null
  const Accumulator<E>* bias;  // [4H], both biases summed
  E* output;                   // [N, P]   written
  E* h_n;                      // [B, P]   written: each row's h after its last step of computation
  E* gates;                    // [N, 4H]  written: activated i, f, g, o for backward; or null
  Accumulator<E>* cells;       // [N, H]   written, or null
  Accumulator<E>* c;           // [B, H] holds c0; on return each row's last cell state
  std::byte* scratch;          // forward_scratch(...) bytes, 64-byte aligned
};

// Weights into panels for any number of calls of `forward`. Of the sizes it reads input, hidden, output and projected.
template <typename E>
struct LstmPack {
  LstmSizes sizes;
  int64_t slices;       // of the team
  Weight<E> weight_ih;  // [4H, F]
  Weight<E> weight_hh;  // [4H, P]
  const E* weight_hr;   // [P, H] or null
  std::byte* packed;    // packed_bytes(...) bytes, 64-byte aligned, written
  std::byte* scratch;   // pack_scratch(...) bytes, 64-byte aligned
};

// `sizes` may be of a regrouped batch (chunks.h): row n of it stands at storage[n] of the arrays of N rows.
template <typename E>
struct LstmBackward {
  LstmSizes sizes;
  const int64_t* storage;  // [N]
  DropConnect dropconnect;
  Grid grid;
  PoolGradient<E> pool;
  const E* input;                    // [N, F]
  const E* h0;                       // [B, P]
  const Accumulator<E>* c0;          // [B, H]
  Weight<E> weight_ih;               // [4H, F]
  Weight<E> weight_hh;               // [4H, P]
  const E* weight_hr;                // [P, H] or null
  const E* output;                   // [N, P]   the forward's, as are gates and cells
  const E* gates;                    // [N, 4H]
  const Accumulator<E>* cells;       // [N, H]
  const E* grad_output;              // [N, P] or null
  const E* grad_h_n;                 // [B, P] or null
  Accumulator<E>* grad_c;            // [B, H] holds grad_c_n; on return grad_c0
  E* grad_h;                         // [N, P]  written with a projection (total gradient of each h), else null
  E* grad_h0;                        // [B, P]  written
  E* grad_input;                     // [N, F]  written unless null, as are the next three
  WeightGradient<E> grad_weight_ih;  // [4H, F]
  WeightGradient<E> grad_weight_hh;  // [4H, P]
  WeightGradient<E> grad_bias;       // [4H]
  std::byte* scratch;                // backward_scratch(...) bytes, 64-byte aligned
};

// The entry points of one instruction set. `forward` and `backward` run on every thread of the team at once, each
// owning slices of the grid, together all of them, and helping with the others'.
template <typename E>
struct LstmKernels {
  int64_t lanes;  // hidden units in the smallest piece of work that can go to a thread
  int64_t rows;   // rows of the batch in it
  int64_t (*forward_scratch)(const LstmForward<E>&);
  int64_t (*backward_scratch)(const LstmBackward<E>&);
  void (*forward)(const LstmForward<E>&, Member);
  void (*backward)(const LstmBackward<E>&, Member);
  int64_t (*packed_bytes)(const LstmSizes&);
  int64_t (*pack_scratch)(const LstmPack<E>&);
  void (*pack)(const LstmPack<E>&, Member);
};

// The kernels of the instruction set in use.
template <typename E>
const LstmKernels<E>& lstm_kernels();

}  // namespace ulmfit_fast
