// A block owns a row: largest logit, sum of exponentials, then the gradient. Sums are reduced in a fixed order. Each
// logit is read three times, each gradient written once.
#include <torch/headeronly/macros/Macros.h>

#include <limits>

#include "launch.cuh"
#include "linear_cross_entropy_kernel.h"

namespace ulmfit_fast::cuda {
namespace {

// All threads' values combined, in every thread; in an order that does not change from run to run.
template <typename T, typename Combine>
__device__ T reduce_block(T value, Combine combine) {
  __shared__ T of_warp[kRowThreads / 32];
  for (int step = 16; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  __syncthreads();  // the last reduction's values have been read
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T result = of_warp[0];
  for (int warp = 1; warp < kRowThreads / 32; ++warp) result = combine(result, of_warp[warp]);
  return result;
}

template <typename E>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_kernel(CrossEntropyRows<E> a) {
  using Acc = Accumulator<E>;
  const int64_t row = blockIdx.x;
  const Acc* logits = a.logits + row * a.classes;
  const int64_t target = a.target[row];
  const bool counts = target != a.ignore_index;
  CUDA_KERNEL_ASSERT(!counts || (target >= 0 && target < a.classes));
  const auto logit = [&](int64_t j) { return a.bias == nullptr ? logits[j] : logits[j] + a.bias[j]; };
  const auto larger = [](Acc x, Acc y) { return x > y || x != x ? x : y; };
  const auto add = [](Acc x, Acc y) { return x + y; };

  Acc largest = std::numeric_limits<Acc>::lowest();
  for (int64_t j = threadIdx.x; j < a.classes; j += kRowThreads) largest = larger(logit(j), largest);
  largest = reduce_block(largest, larger);
  Acc sum = 0, total = 0;
  for (int64_t j = threadIdx.x; j < a.classes; j += kRowThreads) {
    const Acc value = logit(j);
    sum += exp(value - largest);
    total += value;
  }
  sum = reduce_block(sum, add);
  const Acc normalizer = largest + log(sum), smoothing = a.label_smoothing;
  if (smoothing > 0) total = reduce_block(total, add);
  if (threadIdx.x == 0) {
    const Acc mean = smoothing > 0 ? smoothing * total / static_cast<Acc>(a.classes) : 0;
    a.loss[row] = counts ? normalizer - (1 - smoothing) * logit(target) - mean : 0;
  }
  if (a.gradient == nullptr) return;
  const Acc weight = counts ? a.row_weight[row] : 0, even = smoothing / static_cast<Acc>(a.classes);
  E* gradient = a.gradient + row * a.classes;
  for (int64_t j = threadIdx.x; j < a.classes; j += kRowThreads) {
    const Acc expected = even + (j == target ? 1 - smoothing : 0);
    gradient[j] = counts ? static_cast<E>((exp(logit(j) - normalizer) - expected) * weight) : static_cast<E>(0);
  }
}

}  // namespace

template <typename E>
void cross_entropy(cudaStream_t stream, const CrossEntropyRows<E>& rows) {
  launch_blocks(stream, cross_entropy_kernel<E>, rows.rows, kRowThreads, rows);
}

#define INSTANTIATE(E) template void cross_entropy(cudaStream_t, const CrossEntropyRows<E>&);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
