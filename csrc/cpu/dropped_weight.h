// DropConnect on the way into a panel: rows of a weight, masked and scaled in a small buffer, never the whole tensor.
#pragma once

#include "../common/philox.h"
#include "simd.h"
#include "weight.h"

namespace ulmfit_fast::ULMFIT_ISA {

typedef uint64_t CounterVec __attribute__((vector_size(ULMFIT_VECTOR_BYTES)));

// The low halves of both, multiplied to 64 bits; the high halves are ignored.
static inline CounterVec multiply_low(CounterVec a, CounterVec b) {
#if defined(__AVX512F__)
  return bit_cast<CounterVec>(_mm512_mul_epu32(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif defined(__AVX2__) && ULMFIT_VECTOR_BYTES == 32
  return bit_cast<CounterVec>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#elif defined(__SSE2__) && ULMFIT_VECTOR_BYTES == 16
  return bit_cast<CounterVec>(_mm_mul_epu32(bit_cast<__m128i>(a), bit_cast<__m128i>(b)));
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

constexpr int kCounterVectors = 4;  // independent chains, to hide the multiplier's latency
constexpr int kPhiloxWords = kCounterVectors * ULMFIT_VECTOR_BYTES / 2;  // words of one call of philox_block

template <int... J>
static inline void interleave(CounterVec a, CounterVec b, CounterVec& low, CounterVec& high,
                              std::integer_sequence<int, J...>) {
  constexpr int kCount = sizeof...(J);
  low = __builtin_shufflevector(a, b, ((J & 1) * kCount + J / 2)...);
  high = __builtin_shufflevector(a, b, ((J & 1) * kCount + kCount / 2 + J / 2)...);
}

template <int... I>
static inline CounterVec count_up(std::integer_sequence<int, I...>) {
  return CounterVec{static_cast<uint64_t>(I)...};
}

// The words of philox.h for kPhiloxWords / 4 counters from `counter` on. A vector holds one counter in each 64 bits, of
// which only the low half counts until the end.
static inline void philox_block(uint32_t* words, uint64_t seed, uint64_t counter) {
  constexpr int kCounters = ULMFIT_VECTOR_BYTES / 8;
  CounterVec c0[kCounterVectors], c1[kCounterVectors], c2[kCounterVectors] = {}, c3[kCounterVectors] = {};
#pragma GCC unroll 4
  for (int v = 0; v < kCounterVectors; ++v) {
    c0[v] = count_up(std::make_integer_sequence<int, kCounters>()) + (counter + v * kCounters);
    c1[v] = c0[v] >> 32;
  }
  const CounterVec multiplier0 = kPhiloxMultiplier0 - CounterVec{}, multiplier1 = kPhiloxMultiplier1 - CounterVec{};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1) {
#pragma GCC unroll 4
    for (int v = 0; v < kCounterVectors; ++v) {
      const CounterVec product0 = multiply_low(c0[v], multiplier0), product1 = multiply_low(c2[v], multiplier1);
      c0[v] = (product1 >> 32) ^ c1[v] ^ key0;
      c1[v] = product1;
      c2[v] = (product0 >> 32) ^ c3[v] ^ key1;
      c3[v] = product0;
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kCounterVectors; ++v) {
    CounterVec low, high;
    interleave((c0[v] & 0xFFFFFFFFu) | c1[v] << 32, (c2[v] & 0xFFFFFFFFu) | c3[v] << 32, low, high,
               std::make_integer_sequence<int, kCounters>());
    std::memcpy(words + v * 4 * kCounters, &low, sizeof(low));
    std::memcpy(words + v * 4 * kCounters + 2 * kCounters, &high, sizeof(high));
  }
}

// Calls visit(j, words, n) for pieces of a flattened weight: words[i] are the random bits of element first + j + i, i <
// n. A piece has kPhiloxWords - 3 to kPhiloxWords elements, the last one fewer; `words` may be read to kPhiloxWords +
// lanes.
template <typename Visit>
static inline void for_random_words(uint64_t seed, int64_t first, int64_t count, Visit visit) {
  uint32_t words[kPhiloxWords + ULMFIT_VECTOR_BYTES] = {};
  int64_t skip = first % 4;
  for (int64_t j = 0, counter = first / 4; j < count; counter += kPhiloxWords / 4, skip = 0) {
    philox_block(words, seed, static_cast<uint64_t>(counter));
    const int64_t n = kPhiloxWords - skip < count - j ? kPhiloxWords - skip : count - j;
    visit(j, words + skip, n);
    j += n;
  }
}

// A word above this is kept: those from keep_threshold on, which is at least 1 as p > 0.
static inline uint32_t drop_limit(const DropConnect& drop) {
  return static_cast<uint32_t>(keep_threshold(drop.p) - 1);
}

// keep[j] = whether DropConnect keeps element `first + j` of the flattened weight, j < count.
static inline void keep_bits(uint8_t* keep, const DropConnect& drop, int64_t first, int64_t count) {
  const uint32_t limit = drop_limit(drop);
  if (!drop.enabled()) {
    std::memset(keep, 1, count);
    return;
  }
  for_random_words(drop.seed, first, count, [&](int64_t j, const uint32_t* words, int64_t n) {
    for (int64_t i = 0; i < n; ++i) keep[j + i] = words[i] > limit;
  });
}

// to[j] = from[j] * mask * scale for the weight's elements first + j, j < count. `to` may be `from`.
template <typename E, typename From>
static inline void drop(E* to, const From* from, const DropConnect& dropconnect, int64_t first, int64_t count) {
  using Acc = Accumulator<E>;
  const uint32_t limit = drop_limit(dropconnect);
  const Acc scale = static_cast<Acc>(dropconnect.scale());
  for_random_words(dropconnect.seed, first, count, [&](int64_t j, const uint32_t* words, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes<E>) {
      const Vec<E> value = load(from + j + i, n - i) * scale;
      if constexpr (sizeof(Acc) == 4) {
        const auto kept = load(words + i) > limit;
        store(to + j + i, bit_cast<Vec<E>>(bit_cast<IntVec>(value) & kept), n - i);
      } else {
        Vec<E> masked = {};
        for (int lane = 0; lane < kLanes<E>; ++lane) masked[lane] = words[i + lane] > limit ? value[lane] : 0;
        store(to + j + i, masked, n - i);
      }
    }
  });
}

// A weight [rows, columns], row-major, as the packers read it.
template <typename E>
struct DroppedWeight {
  Weight<E> weight;
  int64_t columns;
  DropConnect dropconnect;
  E* buffer;  // scratch for as many rows as the packer asks for at a time

  // Elements begin .. begin + count of row `index`: in place, or in slot `slot` of the buffer if dropped or converted.
  const E* row(int64_t index, int64_t begin, int64_t count, int64_t slot) const {
    const int64_t first = index * columns + begin;
    if (weight.own != nullptr && !dropconnect.enabled()) return weight.own + first;
    E* to = buffer + slot * count;
    if (weight.own != nullptr)
      drop(to, weight.own + first, dropconnect, first, count);
    else if (dropconnect.enabled())
      drop(to, weight.master + first, dropconnect, first, count);
    else
      for (int64_t j = 0; j < count; j += kLanes<E>)
        store(to + j, load(weight.master + first + j, count - j), count - j);
    return to;
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
