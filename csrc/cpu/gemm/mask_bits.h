// DropConnect's mask: random words into bits, bits onto weights.
//
// A call draws the mask once, all threads together, as one bit an element (a 32nd of the weight); packing the weight
// and finishing its gradient read the bits. The random words cost more than all the rest of it.
#pragma once

#include <bit>
#include <type_traits>

#include "../../common/philox.h"
#include "simd.h"

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
#elif defined(__aarch64__)
  return bit_cast<CounterVec>(vmull_u32(vmovn_u64(bit_cast<uint64x2_t>(a)), vmovn_u64(bit_cast<uint64x2_t>(b))));
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
#pragma GCC unroll 10
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

// A word above this is kept: those from keep_threshold on, which is at least 1 as p > 0.
static inline uint32_t drop_limit(const DropConnect& drop) {
  return static_cast<uint32_t>(keep_threshold(drop.p) - 1);
}

// Bit l: whether lane l is above the limit.
static inline uint32_t lanes_above(WordVec words, uint32_t limit) {
#if defined(__AVX512F__)
  return _mm512_cmpgt_epu32_mask(bit_cast<__m512i>(words), _mm512_set1_epi32(static_cast<int>(limit)));
#else
  const auto above = words > limit;
#if defined(__AVX2__) && ULMFIT_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps(bit_cast<__m256>(above)));
#elif defined(__SSE2__) && ULMFIT_VECTOR_BYTES == 16
  return static_cast<uint32_t>(_mm_movemask_ps(bit_cast<__m128>(above)));
#elif defined(__aarch64__)
  constexpr WordVec kBits = {1, 2, 4, 8};
  return vaddvq_u32(bit_cast<uint32x4_t>(bit_cast<WordVec>(above) & kBits));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes<float>; ++lane) bits |= static_cast<uint32_t>(above[lane] & 1) << lane;
  return bits;
#endif
#endif
}

// keep[j] = whether DropConnect keeps element `first + j` of the flattened weight, j < count.
static inline void keep_bits(uint8_t* keep, const DropConnect& drop, int64_t first, int64_t count) {
  if (!drop.enabled()) {
    std::memset(keep, 1, count);
    return;
  }
  const uint32_t limit = drop_limit(drop);
  uint32_t words[kPhiloxWords];
  for (int64_t block = first / kPhiloxWords * kPhiloxWords; block < first + count; block += kPhiloxWords) {
    philox_block(words, drop.seed, static_cast<uint64_t>(block / 4));
    for (int64_t e = larger(first, block); e < smaller(first + count, block + kPhiloxWords); ++e)
      keep[e - first] = words[e - block] > limit;
  }
}

// The mask of a weight as the kernels read it.
struct MaskBits {
  // Element e of the flattened weight: bit e % 8 of byte e / 8. Null: nothing is dropped.
  const uint8_t* bits = nullptr;
  double scale = 1;

  static constexpr int64_t kPiece = 1 << 12;  // elements drawn at a time, at most

  explicit operator bool() const { return bits != nullptr; }

  static int64_t pieces(int64_t elements) { return (elements + kPiece - 1) / kPiece; }
  // Bytes of all bits, and three more, which `kept` reads.
  static int64_t bytes(int64_t elements) { return pieces(elements) * (kPiece / 8) + 3; }

  // Draws piece `index` of the bits at `to`, of a weight with so many elements.
  static void draw(uint8_t* to, const DropConnect& drop, int64_t elements, int64_t index) {
    static_assert(kPhiloxWords % 32 == 0 && kPiece % kPhiloxWords == 0);
    static_assert(std::endian::native == std::endian::little);  // words are stored and read as bytes
    const uint32_t limit = drop_limit(drop);
    uint32_t words[kPhiloxWords];
    const int64_t end = smaller((index + 1) * kPiece, elements);
    for (int64_t e = index * kPiece; e < end; e += kPhiloxWords) {
      philox_block(words, drop.seed, static_cast<uint64_t>(e / 4));
      for (int64_t i = 0; i < kPhiloxWords; i += 32) {
        uint32_t kept = 0;
        for (int64_t j = 0; j < 32; j += kLanes<float>) kept |= lanes_above(load(words + i + j), limit) << j;
        std::memcpy(to + (e + i) / 8, &kept, sizeof(kept));
      }
    }
  }

  // The elements from `first` on that are kept, and zero for the others.
  template <typename T>
  Vec<T> kept(Vec<T> value, int64_t first) const {
    uint32_t next;
    std::memcpy(&next, bits + first / 8, sizeof(next));
    return select(value, next >> first % 8, std::make_integer_sequence<int, kLanes<T>>());
  }

 private:
  template <typename V, int... Lane>
  static V select(V value, uint32_t lanes, std::integer_sequence<int, Lane...>) {
    typedef decltype(value > value) Mask;
    const std::remove_reference_t<decltype(Mask{}[0])> all = lanes;
    const Mask kept = ((all - Mask{}) & Mask{(1 << Lane)...}) != 0;
    return bit_cast<V>(bit_cast<Mask>(value) & kept);
  }
};

// to[j] = from[j] * mask * scale for the weight's elements first + j, j < count. `to` may be `from`.
template <typename E, typename From>
static inline void drop(E* to, const From* from, const MaskBits& mask, int64_t first, int64_t count) {
  using Acc = Accumulator<E>;
  const Acc scale = static_cast<Acc>(mask.scale);
  for (int64_t j = 0; j < count; j += kLanes<E>)
    store(to + j, mask.kept<Acc>(load(from + j, count - j) * scale, first + j), count - j);
}

}  // namespace ulmfit_fast::ULMFIT_ISA
