// From rows of logits to their losses and gradients on CUDA, as linear_cross_entropy.cpp launches it.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

template <typename E>
struct CrossEntropyRows {
  int64_t rows, classes, ignore_index;
  Accumulator<E> label_smoothing;
  const Accumulator<E>* logits;      // [rows, classes] before the bias; begins at a multiple of 16 bytes
  const Accumulator<E>* bias;        // [classes] or null
  const int64_t* target;             // [rows]
  const Accumulator<E>* row_weight;  // [rows]
  Accumulator<E>* loss;              // [rows] written
  E* gradient;                       // [rows, classes] written, or null; likewise
};

template <typename E>
void cross_entropy(cudaStream_t stream, const CrossEntropyRows<E>& rows);

}  // namespace ulmfit_fast::cuda
