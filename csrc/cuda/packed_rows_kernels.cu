// One warp a row, so that a row's place is found once for all its elements; for add_steps one thread a document. Limit:
// memory bandwidth. Deterministic: nothing is summed.
#include "launch.cuh"
#include "packed_rows_kernels.h"

namespace ulmfit_fast::cuda {
namespace {

constexpr int kWarp = 32;

__device__ inline int64_t row_of_warp(const PackedRuns& runs) {
  return runs.first_row + thread_index() / kWarp;
}

template <typename E>
__global__ void locked_dropout_kernel(E* output, const E* input, const Accumulator<E>* mask, int64_t width,
                                      const __grid_constant__ PackedRuns runs) {
  const int64_t row = row_of_warp(runs);
  if (row >= runs.end_row) return;
  const PackedRun& run = runs.runs[runs.run_of(row)];
  const Accumulator<E>* factors = mask + (row - run.first_row) % run.rows * width;
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp)
    output[row * width + i] = static_cast<E>(static_cast<Accumulator<E>>(input[row * width + i]) * factors[i]);
}

template <typename E>
__global__ void previous_rows_kernel(E* previous, const E* output, const E* h0, int64_t width, bool reverse,
                                     const __grid_constant__ PackedRuns runs) {
  const int64_t row = row_of_warp(runs);
  if (row >= runs.end_row) return;
  const int index = runs.run_of(row);
  const PackedRun& run = runs.runs[index];
  const int64_t r = (row - run.first_row) % run.rows;
  const E* from = h0 + r * width;
  if (reverse) {
    const bool last = row + run.rows >= runs.end_of(index);
    const int64_t after = index + 1 < runs.count ? runs.runs[index + 1].rows : runs.rows_after;
    if (r < (last ? after : run.rows)) from = output + (row + run.rows) * width;
  } else {
    const bool first = row < run.first_row + run.rows;
    const int64_t before = !first ? run.rows : index > 0 ? runs.runs[index - 1].rows : runs.rows_before;
    if (before > 0) from = output + (row - before) * width;
  }
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp) previous[row * width + i] = from[i];
}

__global__ void add_steps_kernel(int64_t* result, const int64_t* count, int64_t documents,
                                 const __grid_constant__ PackedRuns runs) {
  const int64_t document = thread_index();
  if (document >= documents) return;
  const int run = runs.last_with(document);
  if (run >= 0) result[document] = count[document] + runs.runs[run].end_step;
}

int64_t threads_for(const PackedRuns& runs) {
  return (runs.end_row - runs.first_row) * kWarp;
}

}  // namespace

template <typename E>
void multiply_by_mask(cudaStream_t stream, E* output, const E* input, const Accumulator<E>* mask, int64_t width,
                      const PackedRuns& runs) {
  launch(stream, locked_dropout_kernel<E>, threads_for(runs), output, input, mask, width, runs);
}

template <typename E>
void previous_rows(cudaStream_t stream, E* previous, const E* output, const E* h0, int64_t width, bool reverse,
                   const PackedRuns& runs) {
  launch(stream, previous_rows_kernel<E>, threads_for(runs), previous, output, h0, width, reverse, runs);
}

void add_steps(cudaStream_t stream, int64_t* result, const int64_t* count, int64_t documents, const PackedRuns& runs) {
  launch(stream, add_steps_kernel, documents, result, count, documents, runs);
}

#define INSTANTIATE(E)                                                                                           \
  template void multiply_by_mask(cudaStream_t, E*, const E*, const Accumulator<E>*, int64_t, const PackedRuns&); \
  template void previous_rows(cudaStream_t, E*, const E*, const E*, int64_t, bool, const PackedRuns&);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
