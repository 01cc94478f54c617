// Cross-entropy of a linear layer, with its gradients. Torch-free (see lstm_kernel.h).
#pragma once

#include <cstdint>

#include "../gemm/weight.h"
#include "../runtime/team.h"

namespace ulmfit_fast {

// Of the N rows of `input`, those that `row` lists count; the others (targets to ignore) are neither read nor written.
template <typename E>
struct LinearCrossEntropy {
  int64_t rows;                      // number of rows that count
  int64_t features, classes;         // E, V
  int64_t slices;                    // that the work is cut into, one or more a thread
  const int64_t* row;                // [rows] where they stand in what has N rows
  const E* input;                    // [N, E]
  Weight<E> weight;                  // [V, E]
  const Accumulator<E>* bias;        // [V] or null
  const int64_t* target;             // [N] in 0 .. V
  const Accumulator<E>* row_weight;  // [N] gradient of the result with respect to each row's loss, or null
  double label_smoothing;            // this share of the target's probability goes evenly to all classes
  double threshold;                  // see linear_cross_entropy.h
  Accumulator<E>* loss;              // [N]    written
  E* grad_input;                     // [N, E] written, or null, as are the next two
  Accumulator<E>* grad_weight;       // [V, E]
  Accumulator<E>* grad_bias;         // [V]
  std::byte* scratch;                // scratch(...) bytes, 64-byte aligned
};

template <typename E>
struct LinearCrossEntropyKernels {
  int64_t (*scratch)(const LinearCrossEntropy<E>&);
  void (*run)(const LinearCrossEntropy<E>&, Member);  // on every thread of the team at once
};

// The kernels of the instruction set in use.
template <typename E>
const LinearCrossEntropyKernels<E>& linear_cross_entropy_kernels();

}  // namespace ulmfit_fast
