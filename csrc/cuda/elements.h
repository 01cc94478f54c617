// What CUDA kernels and those that launch them agree on: element types and their sums. No torch but for its scalars.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace ulmfit_fast::cuda {

// Sums and cell states of elements of type E.
template <typename E>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename E>
using Accumulator = typename AccumulatorOf<E>::type;

}  // namespace ulmfit_fast::cuda

// INSTANTIATE(E) for every type of elements.
#define ULMFIT_FOR_ELEMENTS(INSTANTIATE) \
  INSTANTIATE(float) INSTANTIATE(double) INSTANTIATE(c10::BFloat16) INSTANTIATE(c10::Half)
