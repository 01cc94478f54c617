// Pooling of h over time, one vector of units of one row at a time: forward into the running state, and its gradient.
#pragma once

#include "lstm_kernel.h"
#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

template <typename E>
using Mask = decltype(Vec<E>{} < Vec<E>{});  // integers as wide as the accumulator, all bits set where true
template <typename E>
struct StepLanes {
  typedef int32_t type __attribute__((vector_size(4 * kLanes<E>)));
};
template <typename E>
using Steps = typename StepLanes<E>::type;

template <typename E>
static inline Steps<E> load_steps(const int32_t* from, int64_t count) {
  Steps<E> steps = {};
  std::memcpy(&steps, from, (count < kLanes<E> ? count : kLanes<E>)*sizeof(int32_t));
  return steps;
}

template <typename E>
static inline void store_steps(int32_t* to, Steps<E> steps, int64_t count) {
  std::memcpy(to, &steps, (count < kLanes<E> ? count : kLanes<E>)*sizeof(int32_t));
}

// Step `t` of row `r` has `h` in units unit .. of `width`.
template <typename E>
static inline void add_to_pool(const Pool<E>& pool, int64_t r, int64_t t, int64_t width, int64_t unit, Vec<E> h) {
  const int64_t step = pool.first_step[r] + t, at = r * width + unit, count = width - unit;
  if (step < pool.pool_from[r]) return;
  store(pool.total + at, load(pool.total + at, count) + h, count);
  const Vec<E> maximum = load(pool.maximum + at, count);
  const Mask<E> larger = h > maximum;
  store(pool.maximum + at, larger ? h : maximum, count);
  const Steps<E> larger_steps = __builtin_convertvector(larger, Steps<E>);
  const Steps<E> steps = load_steps<E>(pool.argmax + at, count);
  store_steps<E>(pool.argmax + at, (steps & ~larger_steps) | (static_cast<int32_t>(step) & larger_steps), count);
}

// What flows from the pooled state into h of step `t` of row `r`.
template <typename E>
static inline Vec<E> grad_of_pooled(const PoolGradient<E>& pool, int64_t r, int64_t t, int64_t width, int64_t unit) {
  const int64_t step = pool.first_step[r] + t, at = pool.document[r] * width + unit, count = width - unit;
  Vec<E> grad = {};
  if (step < pool.pool_from[r]) return grad;
  if (pool.total != nullptr) grad = load(pool.total + at, count);
  if (pool.maximum == nullptr) return grad;
  const Steps<E> here = load_steps<E>(pool.argmax + at, count) == static_cast<int32_t>(step);
  return grad + (__builtin_convertvector(here, Mask<E>) ? load(pool.maximum + at, count) : Vec<E>{});
}

}  // namespace ulmfit_fast::ULMFIT_ISA
