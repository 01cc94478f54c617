// Vectors of the instruction set this file is compiled for: loading, storing, converting, transposing, reducing.
//
// Built on the compiler's vector extension: one source serves AVX-512, AVX2, plain SSE2 and NEON. Everything is
// `static` or inside the instruction set's own namespace, so that no two builds share a symbol (see philox.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "../../common/bfloat16.h"

// Tests compile the AVX-512 kernels for processors without AVX-512, too: the same layouts, other instructions.
#if defined(__AVX512BF16__) || defined(ULMFIT_EMULATE_AVX512_BF16)
#define ULMFIT_BFLOAT16_PAIRS
#define ULMFIT_ISA avx512_bf16
#elif defined(__AVX512VNNI__) || defined(ULMFIT_EMULATE_AVX512_VNNI)
#define ULMFIT_ISA avx512_vnni
#elif defined(__AVX512F__) || defined(ULMFIT_EMULATE_AVX512)
#define ULMFIT_ISA avx512
#elif defined(__AVXVNNI__) || defined(ULMFIT_EMULATE_AVX2_VNNI)
#define ULMFIT_ISA avx2_vnni
#elif defined(__AVX2__)
#define ULMFIT_ISA avx2
#else
#define ULMFIT_ISA portable
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) || defined(ULMFIT_EMULATE_AVX512) || defined(ULMFIT_EMULATE_AVX512_BF16) || \
    defined(ULMFIT_EMULATE_AVX512_VNNI)
#define ULMFIT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ULMFIT_VECTOR_BYTES 32
#else
#define ULMFIT_VECTOR_BYTES 16
#endif

// AVX-512 and NEON have 32 vector registers, the others 16.
#if ULMFIT_VECTOR_BYTES == 64 || defined(__aarch64__)
#define ULMFIT_VECTOR_REGISTERS 32
#else
#define ULMFIT_VECTOR_REGISTERS 16
#endif

// Keeps a vector in a register from here on.
#if defined(__AVX512F__)
#define ULMFIT_PIN(vector) asm("" : "+v"(vector))
#elif defined(__SSE2__) && ULMFIT_VECTOR_BYTES < 64
#define ULMFIT_PIN(vector) asm("" : "+x"(vector))
#elif defined(__aarch64__)
#define ULMFIT_PIN(vector) asm("" : "+w"(vector))
#else
#define ULMFIT_PIN(vector) asm("" : "+m"(vector))
#endif

namespace ulmfit_fast::ULMFIT_ISA {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(ULMFIT_VECTOR_BYTES)));
};
template <>
struct VectorOf<Bfloat16> : VectorOf<Accumulator<Bfloat16>> {};  // converted as it is loaded and stored
template <typename T>
using Vec = typename VectorOf<T>::type;
using IntVec = Vec<int32_t>;
using WordVec = Vec<uint32_t>;
typedef uint16_t HalfVec __attribute__((vector_size(ULMFIT_VECTOR_BYTES / 2)));

template <typename T>
constexpr int kLanes = ULMFIT_VECTOR_BYTES / sizeof(T);
template <>
constexpr int kLanes<Bfloat16> = ULMFIT_VECTOR_BYTES / 4;  // as many as of its accumulator

template <typename To, typename From>
static inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename T>
static inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

template <typename T>
static inline Vec<T> load(const T* from) {
  Vec<T> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

static inline Vec<float> load(const Bfloat16* from) {
  HalfVec half;
  std::memcpy(&half, from, sizeof(half));
  return bit_cast<Vec<float>>(__builtin_convertvector(half, WordVec) << 16);
}

template <typename T>
static inline void store(T* to, Vec<T> value) {
  std::memcpy(to, &value, sizeof(value));
}

// Rounds to the nearest, ties to even. NaN stays NaN.
static inline void store(Bfloat16* to, Vec<float> value) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh(value);
#else
  const WordVec bits = bit_cast<WordVec>(value);
  const WordVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const WordVec quiet = (bits >> 16) | 0x40;
  const HalfVec half = __builtin_convertvector(value == value ? rounded : quiet, HalfVec);
#endif
  std::memcpy(to, &half, sizeof(half));
}

// The first `count` lanes; the rest read as zero and are never written.
template <typename E>
static inline Vec<E> load(const E* from, int64_t count) {
  if (count >= kLanes<E>) return load(from);
  E lanes[kLanes<E>] = {};
  std::memcpy(lanes, from, count * sizeof(E));
  return load(lanes);
}

template <typename E>
static inline void store(E* to, Vec<E> value, int64_t count) {
  if (count >= kLanes<E>) return store(to, value);
  E lanes[kLanes<E>];
  store(lanes, value);
  std::memcpy(to, lanes, count * sizeof(E));
}

// Whether `stream` goes past the caches: the address and the width must fit.
template <typename E>
static inline bool streams([[maybe_unused]] const E* to, [[maybe_unused]] int64_t count) {
#if defined(__AVX512F__)
  return sizeof(E) > 2 && count >= kLanes<E> && reinterpret_cast<uintptr_t>(to) % ULMFIT_VECTOR_BYTES == 0;
#else
  return false;
#endif
}

// Past the caches where it can, for what is not read again soon.
template <typename E>
static inline void stream(E* to, Vec<E> value, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(E) > 2) {
    if (streams(to, count)) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bit_cast<__m512i>(value));
      return;
    }
  }
#endif
  store(to, value, count);
}

// low[j] | high[j] << 16, the bits of two bfloat16 rows side by side.
static inline WordVec interleave(const Bfloat16* low, const Bfloat16* high) {
  return bit_cast<WordVec>(load(low)) >> 16 | bit_cast<WordVec>(load(high));
}

template <int Bit, typename V, int... J>
static inline void exchange(V& a, V& b, std::integer_sequence<int, J...>) {
  constexpr int kCount = sizeof...(J);
  const V low = __builtin_shufflevector(a, b, ((J & Bit) ? kCount + (J ^ Bit) : J)...);
  b = __builtin_shufflevector(a, b, ((J & Bit) ? kCount + J : (J | Bit))...);
  a = low;
}

// block[i][j] <-> block[j][i]
template <int Bit = 1, typename V, int Lanes>
static inline void transpose(V (&block)[Lanes]) {
  if constexpr (Bit < Lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < Lanes; ++i)
      if ((i & Bit) == 0) exchange<Bit>(block[i], block[i | Bit], std::make_integer_sequence<int, Lanes>());
    transpose<Bit * 2>(block);
  }
}

// The larger of each pair of lanes; where either is NaN, b.
template <typename T>
static inline Vec<T> larger_lanes(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_max_ps(a, b);
  else
    return _mm512_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}

template <int Bit, typename V, int... J>
static inline V swap_lanes(V v, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(v, v, (J ^ Bit)...);
}

// All lanes combined in every lane, in an order that does not depend on the values.
template <typename T, int Bit = 1>
static inline Vec<T> largest_lane(Vec<T> v) {
  if constexpr (Bit < kLanes<T>) {
    const Vec<T> other = swap_lanes<Bit>(v, std::make_integer_sequence<int, kLanes<T>>());
    return largest_lane<T, Bit * 2>(larger_lanes<T>(v, other));
  }
  return v;
}

template <typename T, int Bit = 1>
static inline Vec<T> sum_of_lanes(Vec<T> v) {
  if constexpr (Bit < kLanes<T>)
    return sum_of_lanes<T, Bit * 2>(v + swap_lanes<Bit>(v, std::make_integer_sequence<int, kLanes<T>>()));
  return v;
}

static constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static constexpr int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

}  // namespace ulmfit_fast::ULMFIT_ISA
