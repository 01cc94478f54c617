// A block owns a row and reads it twice, 16 bytes a thread at a time: once for the largest logit and the sum of
// exponentials below it, corrected whenever a larger one is found (Milakov and Gimelshein, arXiv 1805.02867), and once
// for the gradient. Sums are reduced in a fixed order. Limit: memory bandwidth.
#include <torch/headeronly/macros/Macros.h>

#include <algorithm>
#include <limits>

#include "launch.cuh"
#include "linear_cross_entropy_kernel.h"

namespace ulmfit_fast::cuda {
namespace {

// As many elements as a thread reads, or writes, at a time.
template <typename T, int count>
struct alignas(count * sizeof(T)) Several {
  T values[count];
};

template <typename Acc>
constexpr int kSeveral = 16 / sizeof(Acc);

template <typename Acc>
struct Summary {
  Acc largest = std::numeric_limits<Acc>::lowest();
  Acc exponentials = 0;  // sum of exp(x - largest)
  Acc total = 0;         // sum of x
};

// What is not a number is never the largest, but makes the sum so.
template <typename Acc>
__device__ Summary<Acc> combined(const Summary<Acc>& a, const Summary<Acc>& b) {
  Summary<Acc> both;
  both.largest = a.largest > b.largest ? a.largest : b.largest;
  both.exponentials = a.exponentials * exp(a.largest - both.largest) + b.exponentials * exp(b.largest - both.largest);
  both.total = a.total + b.total;
  return both;
}

// All threads' summaries combined, in every thread; in an order that does not change from run to run.
template <typename Acc>
__device__ Summary<Acc> combine_block(Summary<Acc> mine) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  __shared__ Acc of_warps[3][kRowThreads / 32];
  for (int step = 16; step > 0; step /= 2) {
    Summary<Acc> other;
    other.largest = __shfl_xor_sync(kAll, mine.largest, step);
    other.exponentials = __shfl_xor_sync(kAll, mine.exponentials, step);
    other.total = __shfl_xor_sync(kAll, mine.total, step);
    // The lower lane's first, so that both compute the same.
    mine = (threadIdx.x & step) == 0 ? combined(mine, other) : combined(other, mine);
  }
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
    of_warps[0][warp] = mine.largest;
    of_warps[1][warp] = mine.exponentials;
    of_warps[2][warp] = mine.total;
  }
  __syncthreads();
  Summary<Acc> all;
  for (int i = 0; i < kRowThreads / 32; ++i) {
    Summary<Acc> other;
    other.largest = of_warps[0][i];
    other.exponentials = of_warps[1][i];
    other.total = of_warps[2][i];
    all = combined(all, other);
  }
  return all;
}

// visit.template operator()<count>(j) for this thread's share of the classes, `count` of them from j on. `element` is
// the number of the row's first logit; those that are read 16 bytes at a time lie at multiples of that.
template <typename Acc, typename Visit>
__device__ void for_my_classes(int64_t element, int64_t classes, const Visit& visit) {
  constexpr int kCount = kSeveral<Acc>;
  const int64_t before = std::min<int64_t>((kCount - element % kCount) % kCount, classes);
  const int64_t wide = (classes - before) / kCount, after = before + wide * kCount;
  if (threadIdx.x < before) visit.template operator()<1>(threadIdx.x);
  for (int64_t i = threadIdx.x; i < wide; i += kRowThreads) visit.template operator()<kCount>(before + i * kCount);
  if (after + threadIdx.x < classes) visit.template operator()<1>(after + threadIdx.x);
}

template <int count, typename Acc>
__device__ Several<Acc, count> logits_at(const Acc* logits, const Acc* bias, int64_t j) {
  auto logit = *reinterpret_cast<const Several<Acc, count>*>(logits + j);
  if (bias != nullptr)
    for (int i = 0; i < count; ++i) logit.values[i] += bias[j + i];
  return logit;
}

template <typename E>
__global__ void __launch_bounds__(kRowThreads) cross_entropy_kernel(CrossEntropyRows<E> a) {
  using Acc = Accumulator<E>;
  const int64_t row = blockIdx.x, element = row * a.classes;
  const Acc* logits = a.logits + element;
  const int64_t target = a.target[row];
  const bool counts = target != a.ignore_index;
  CUDA_KERNEL_ASSERT(!counts || (target >= 0 && target < a.classes));

  Summary<Acc> summary;
  for_my_classes<Acc>(element, a.classes, [&]<int count>(int64_t j) {
    const auto logit = logits_at<count>(logits, a.bias, j);
    Acc largest = summary.largest;
    for (int i = 0; i < count; ++i) largest = logit.values[i] > largest ? logit.values[i] : largest;
    if (largest > summary.largest) {
      summary.exponentials *= exp(summary.largest - largest);
      summary.largest = largest;
    }
    for (int i = 0; i < count; ++i) {
      summary.exponentials += exp(logit.values[i] - largest);
      summary.total += logit.values[i];
    }
  });
  summary = combine_block(summary);
  const Acc normalizer = summary.largest + log(summary.exponentials), smoothing = a.label_smoothing;
  if (threadIdx.x == 0) {
    const Acc mean = smoothing > 0 ? smoothing * summary.total / static_cast<Acc>(a.classes) : 0;
    a.loss[row] =
        counts ? normalizer - (1 - smoothing) * logits_at<1>(logits, a.bias, target).values[0] - mean : Acc(0);
  }
  if (a.gradient == nullptr) return;
  const Acc weight = counts ? a.row_weight[row] : 0, even = smoothing / static_cast<Acc>(a.classes);
  E* gradient = a.gradient + element;
  for_my_classes<Acc>(element, a.classes, [&]<int count>(int64_t j) {
    Several<E, count> grad{};
    if (counts) {
      const auto logit = logits_at<count>(logits, a.bias, j);
      for (int i = 0; i < count; ++i) {
        const Acc expected = even + (j + i == target ? 1 - smoothing : 0);
        grad.values[i] = static_cast<E>((exp(logit.values[i] - normalizer) - expected) * weight);
      }
    }
    *reinterpret_cast<Several<E, count>*>(gradient + j) = grad;
  });
}

}  // namespace

template <typename E>
void cross_entropy(cudaStream_t stream, const CrossEntropyRows<E>& rows) {
  launch_blocks(stream, cross_entropy_kernel<E>, rows.rows, kRowThreads, rows);
}

#define INSTANTIATE(E) template void cross_entropy(cudaStream_t, const CrossEntropyRows<E>&);
ULMFIT_FOR_ELEMENTS(INSTANTIATE)

}  // namespace ulmfit_fast::cuda
