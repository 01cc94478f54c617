// What linear.cpp (torch) and linear_kernel.cpp (compiled once per instruction set) agree on. Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weight.h"

namespace ulmfit_fast {

// output = input x weight^T + bias (transposed: input x weight). All contiguous, row-major.
template <typename E>
struct Linear {
  int64_t rows, depth, columns;
  bool transposed;
  const E* input;              // [rows, depth]
  Weight<E> weight;            // [columns, depth], transposed [depth, columns]
  const Accumulator<E>* bias;  // [columns] or null
  E* output;                   // [rows, columns] written
};

template <typename E>
struct LinearKernels {
  int64_t (*panels)(const Linear<E>&);   // into which the columns are cut
  int64_t (*scratch)(const Linear<E>&);  // bytes, 64-byte aligned, of each call of `run`
  // Panel `panel` of the columns, rows first .. last.
  void (*run)(const Linear<E>&, int64_t panel, int64_t first, int64_t last, std::byte* scratch);
};

// The kernels of the instruction set in use.
template <typename E>
const LinearKernels<E>& linear_kernels();

}  // namespace ulmfit_fast
