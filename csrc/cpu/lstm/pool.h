// Pooling of h over time, one vector of units of one row at a time: forward into the running state, and its gradient.
#pragma once

#include "../../common/wrapping.h"
#include "../gemm/simd.h"
#include "lstm_kernel.h"

namespace ulmfit_fast::ULMFIT_ISA {

template <typename E>
using Mask = decltype(Vec<E>{} < Vec<E>{});  // integers as wide as the accumulator, all bits set where true

// As many values of type T as a vector of E has lanes.
template <typename T, typename E>
struct LanesOf {
  typedef T type __attribute__((vector_size(sizeof(T) * kLanes<E>)));
};
template <typename T, typename E>
using Lanes = typename LanesOf<T, E>::type;

template <typename E, typename T>
static inline Lanes<T, E> load_lanes(const T* from, int64_t count) {
  Lanes<T, E> values = {};
  std::memcpy(&values, from, (count < kLanes<E> ? count : kLanes<E>)*sizeof(T));
  return values;
}

template <typename E, typename T>
static inline void store_lanes(T* to, Lanes<T, E> values, int64_t count) {
  std::memcpy(to, &values, (count < kLanes<E> ? count : kLanes<E>)*sizeof(T));
}

// Step `t` of row `r` has `h` in units unit .. of `width`.
template <typename E>
static inline void add_to_pool(const Pool<E>& pool, int64_t r, int64_t t, int64_t width, int64_t unit, Vec<E> h) {
  const int64_t step = wrapping_sum(pool.first_step[r], t), at = r * width + unit, count = width - unit;
  if (step < pool.pool_from[r]) return;
  const Lanes<double, E> total = load_lanes<E>(pool.total + at, count);
  store_lanes<E>(pool.total + at, total + __builtin_convertvector(h, Lanes<double, E>), count);
  const Vec<E> maximum = load(pool.maximum + at, count);
  const Mask<E> larger = h > maximum;
  store(pool.maximum + at, larger ? h : maximum, count);
  const auto larger_steps = __builtin_convertvector(larger, Lanes<int32_t, E>);
  const Lanes<int32_t, E> steps = load_lanes<E>(pool.argmax + at, count);
  store_lanes<E>(pool.argmax + at, (steps & ~larger_steps) | (static_cast<int32_t>(step) & larger_steps), count);
}

// What flows from the pooled state into h of step `t` of row `r`.
template <typename E>
static inline Vec<E> grad_of_pooled(const PoolGradient<E>& pool, int64_t r, int64_t t, int64_t width, int64_t unit) {
  const int64_t step = wrapping_sum(pool.first_step[r], t), at = pool.document[r] * width + unit, count = width - unit;
  Vec<E> grad = {};
  if (step < pool.pool_from[r]) return grad;
  if (pool.total != nullptr) grad = load(pool.total + at, count);
  if (pool.maximum == nullptr) return grad;
  const Lanes<int32_t, E> here = load_lanes<E>(pool.argmax + at, count) == static_cast<int32_t>(step);
  return grad + (__builtin_convertvector(here, Mask<E>) ? load(pool.maximum + at, count) : Vec<E>{});
}

}  // namespace ulmfit_fast::ULMFIT_ISA
