// What is done with packed rows beside the recurrence on CUDA. All pointers are the device's but those of `runs`.
#pragma once

#include "elements.h"
#include "packed_runs.h"

namespace ulmfit_fast::cuda {

// output [N, width] = input * the mask [B, width] of each row's sequence; rows of `runs` alone, as below.
template <typename E>
void multiply_by_mask(cudaStream_t stream, E* output, const E* input, const Accumulator<E>* mask, int64_t width,
                      const PackedRuns& runs);

// previous [N, width]: of each row the row of its sequence that was computed before, in `output` [N, width], or of its
// first one h0 [B, width].
template <typename E>
void previous_rows(cudaStream_t stream, E* previous, const E* output, const E* h0, int64_t width, bool reverse,
                   const PackedRuns& runs);

// result [documents] = count and the steps of each sequence up to the end of `runs`: a later call, for documents that
// go on, takes its place.
void add_steps(cudaStream_t stream, int64_t* result, const int64_t* count, int64_t documents, const PackedRuns& runs);

}  // namespace ulmfit_fast::cuda
