// One thread computes the four bits of one counter, the same as on CPU. Limit: integer multiplies (20 a counter).
#include "../common/philox.h"
#include "dropconnect_kernel.h"
#include "launch.cuh"

namespace ulmfit_fast::cuda {
namespace {

__global__ void mask_kernel(bool* keep, const int64_t* seed, uint64_t threshold, int64_t elements) {
  const int64_t counter = thread_index();
  if (counter * 4 >= elements) return;
  uint32_t bits[4];
  philox4x32(static_cast<uint64_t>(*seed), static_cast<uint64_t>(counter), bits);
  for (int i = 0; i < 4 && counter * 4 + i < elements; ++i) keep[counter * 4 + i] = bits[i] >= threshold;
}

}  // namespace

void draw_mask(cudaStream_t stream, bool* keep, const int64_t* seed, uint64_t threshold, int64_t elements) {
  launch(stream, mask_kernel, (elements + 3) / 4, keep, seed, threshold, elements);
}

}  // namespace ulmfit_fast::cuda
