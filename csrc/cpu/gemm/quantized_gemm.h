// The matrix multiply of int8 inference: rows of whole numbers times one packed panel of int8 weights.
//
//   out[r][j] = start[r][j] + float(sum_k q[r][k] w[j][k]) * (scale[j] * row_scale[r]),   |q|, |w| <= 127
//
// Sums are exact in int32, and what follows is the same operations in the same order everywhere (the files that include
// this are compiled without contraction to fused multiply-adds): bits depend neither on the instruction set nor on the
// other rows. Depth goes in words of 32 bits of a row:
//   4 unsigned bytes q + 128   with VNNI: vpdpbusd, which does not saturate; 128 times the sum of w is taken off again
//   2 int16                    else: weights are widened as they are loaded, then vpmaddwd and an addition. Nothing can
//                              saturate, as could in vpmaddubsw, unless weights were cut to 7 bits
// Limit: multiply-adds from 6 rows on, reading the weights for fewer.
#pragma once

#include <cassert>

#include "simd.h"

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(ULMFIT_EMULATE_AVX512_VNNI) || \
    defined(ULMFIT_EMULATE_AVX2_VNNI)
#define ULMFIT_BYTE_QUADS
#endif

namespace ulmfit_fast::ULMFIT_ISA {

#if defined(ULMFIT_BYTE_QUADS)
using QuantizedElement = uint8_t;
constexpr int32_t kQuantizedZero = 128;
#else
using QuantizedElement = int16_t;
constexpr int32_t kQuantizedZero = 0;
#endif
constexpr int64_t kWordDepth = 4 / sizeof(QuantizedElement);
constexpr int64_t kIntLanes = kLanes<int32_t>;
constexpr int kGates = 4;  // vectors of a panel: i, f, g, o of the same units
constexpr int kQuantizedRows = 6;
constexpr int kQuantizedVectors = ULMFIT_VECTOR_REGISTERS == 32 ? 4 : 2;  // of a tile; of one or two rows all four

static inline int64_t quantized_words(int64_t depth) {
  return (depth + kWordDepth - 1) / kWordDepth;
}

// Elements of a quantized row, with room for the last vector.
static inline int64_t quantized_row(int64_t depth) {
  return quantized_words(depth) * kWordDepth + kIntLanes;
}

// Bytes of a panel.
static inline int64_t quantized_panel_bytes(int64_t depth) {
  return quantized_words(depth) * kWordDepth * kIntLanes * kGates;
}

struct QuantizedPanel {
  const int8_t* weights;  // tile after tile of kQuantizedVectors vectors; of each word its vectors, lane after lane
  const float* scale;     // [4 * lanes]
  const int32_t* offset;  // [4 * lanes] kQuantizedZero times the sum of w
  int64_t words;
};

static inline int8_t* quantized_at(int8_t* panel, int64_t words, int v, int64_t word) {
  const int64_t tile = v / kQuantizedVectors, inside = v % kQuantizedVectors;
  return panel + ((tile * words + word) * kQuantizedVectors + inside) * kIntLanes * kWordDepth;
}

// The instructions.

#if defined(ULMFIT_BYTE_QUADS)

using QuantizedWeight = IntVec;

static inline void load_quantized(QuantizedWeight& weight, const int8_t* from) {
  std::memcpy(&weight, from, sizeof(weight));
  ULMFIT_PIN(weight);
}

// sum += the four products of unsigned and signed bytes.
static inline void multiply_add_words(IntVec& sum, IntVec value, QuantizedWeight weight) {
#if defined(__AVX512VNNI__)
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(value), "v"(weight));
#elif defined(__AVXVNNI__)
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(value), "x"(weight));
#else
  for (int byte = 0; byte < 4; ++byte)
    sum += ((value >> (8 * byte)) & 0xFF) * (bit_cast<IntVec>(bit_cast<WordVec>(weight) << (24 - 8 * byte)) >> 24);
#endif
}

#else

typedef int16_t QuantizedWeight __attribute__((vector_size(ULMFIT_VECTOR_BYTES)));
typedef int8_t QuantizedBytes __attribute__((vector_size(ULMFIT_VECTOR_BYTES / 2)));

// As instructions where there are: of the conversion GCC 12 makes four.
static inline void load_quantized(QuantizedWeight& weight, const int8_t* from) {
  QuantizedBytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
#if defined(__AVX512BW__)
  weight = bit_cast<QuantizedWeight>(_mm512_cvtepi8_epi16(bit_cast<__m256i>(bytes)));
#elif defined(__AVX2__) && ULMFIT_VECTOR_BYTES == 32
  weight = bit_cast<QuantizedWeight>(_mm256_cvtepi8_epi16(bit_cast<__m128i>(bytes)));
#elif defined(__aarch64__)
  weight = bit_cast<QuantizedWeight>(vmovl_s8(bit_cast<int8x8_t>(bytes)));
#else
  weight = __builtin_convertvector(bytes, QuantizedWeight);
#endif
  ULMFIT_PIN(weight);
}

// sum += both products of int16.
static inline void multiply_add_words(IntVec& sum, IntVec value, QuantizedWeight weight) {
#if defined(__AVX512BW__)
  sum += bit_cast<IntVec>(_mm512_madd_epi16(bit_cast<__m512i>(value), bit_cast<__m512i>(weight)));
#elif defined(__AVX2__) && ULMFIT_VECTOR_BYTES == 32
  sum += bit_cast<IntVec>(_mm256_madd_epi16(bit_cast<__m256i>(value), bit_cast<__m256i>(weight)));
#elif defined(__SSE2__) && ULMFIT_VECTOR_BYTES == 16
  sum += bit_cast<IntVec>(_mm_madd_epi16(bit_cast<__m128i>(value), bit_cast<__m128i>(weight)));
#elif defined(__aarch64__)
  const auto a = bit_cast<int16x8_t>(value), b = bit_cast<int16x8_t>(weight);
  const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b)), high = vmull_high_s16(a, b);
  sum += bit_cast<IntVec>(vpaddq_s32(low, high));
#else
  const IntVec pair = bit_cast<IntVec>(weight);
  sum += (value << 16 >> 16) * (pair << 16 >> 16) + (value >> 16) * (pair >> 16);
#endif
}

#endif

// Rows and where their sums start from and go to.
struct QuantizedRows {
  const QuantizedElement* const* rows;
  const float* row_scale;
  int64_t count;
};

struct QuantizedOut {
  float* to;  // row r at to + r * stride
  const float* start;
  int64_t stride, start_stride;
};

template <int R, int V>
__attribute__((noinline)) static void multiply_quantized_tile(const QuantizedRows& block, int64_t first_row,
                                                              const QuantizedOut& out, const QuantizedPanel& panel,
                                                              int first_vector) {
  constexpr int kBeside = V < kQuantizedVectors ? V : kQuantizedVectors;
  constexpr int64_t kVectorBytes = kIntLanes * kWordDepth, kWord = kQuantizedVectors * kVectorBytes;
  const int64_t gap = panel.words * kWord - kQuantizedVectors * kVectorBytes;  // to a second tile's vectors
  const int8_t* weights = panel.weights + first_vector / kQuantizedVectors * panel.words * kWord;
  const QuantizedElement* row[R];
  IntVec sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    row[r] = block.rows[first_row + r];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = IntVec{};
  }
  const int64_t words = panel.words;
#pragma GCC unroll 4
  for (int64_t word = 0; word < words; ++word) {
    QuantizedWeight weight[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) load_quantized(weight[v], weights + v * kVectorBytes + (v < kBeside ? 0 : gap));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t bits;
      std::memcpy(&bits, row[r] + word * kWordDepth, sizeof(bits));
      const IntVec value = bits - IntVec{};
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) multiply_add_words(sum[r][v], value, weight[v]);
    }
    weights += kWord;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const float row_scale = block.row_scale[first_row + r];
    float* to = out.to + (first_row + r) * out.stride;
    const float* start = out.start + (first_row + r) * out.start_stride;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t column = (first_vector + v) * kIntLanes;
      const IntVec exact = sum[r][v] - load(panel.offset + column);
      const Vec<float> scale = load(panel.scale + column) * row_scale;
      store(to + column, load(start + column) + __builtin_convertvector(exact, Vec<float>) * scale);
    }
  }
}

// All rows times a whole panel.
static inline void multiply_quantized(const QuantizedRows& block, const QuantizedOut& out,
                                      const QuantizedPanel& panel) {
  using Tile = void (*)(const QuantizedRows&, int64_t, const QuantizedOut&, const QuantizedPanel&, int);
  static constexpr Tile kTiles[] = {
      multiply_quantized_tile<1, kQuantizedVectors>, multiply_quantized_tile<2, kQuantizedVectors>,
      multiply_quantized_tile<3, kQuantizedVectors>, multiply_quantized_tile<4, kQuantizedVectors>,
      multiply_quantized_tile<5, kQuantizedVectors>, multiply_quantized_tile<6, kQuantizedVectors>};
  if (block.count <= 2 && kQuantizedVectors < kGates) {  // half a panel has too few sums to hide latencies
    if (block.count == 1) multiply_quantized_tile<1, kGates>(block, 0, out, panel, 0);
    if (block.count == 2) multiply_quantized_tile<2, kGates>(block, 0, out, panel, 0);
    return;
  }
  const int64_t tiles = (block.count + kQuantizedRows - 1) / kQuantizedRows;
  for (int vector = 0; vector < kGates; vector += kQuantizedVectors) {
    for (int64_t i = 0; i < tiles; ++i) {  // as equal as possible
      const int64_t first = block.count * i / tiles, count = block.count * (i + 1) / tiles - first;
      assert(count >= 1 && count <= kQuantizedRows);
      kTiles[count - 1](block, first, out, panel, vector);
    }
  }
}

// Whole numbers nearest to x (ties to even), |x| <= 127, as they stand in a quantized row; of others anything from -128
// to 127.
static inline void store_quantized(QuantizedElement* to, Vec<float> x, int64_t count) {
  const IntVec bits = bit_cast<IntVec>(x + 12582912.0f);  // 1.5 * 2^23: the low bits are the whole number
  QuantizedElement lanes[kIntLanes];
  typedef QuantizedElement Narrow __attribute__((vector_size(sizeof(QuantizedElement) * kIntLanes)));
#if defined(ULMFIT_BYTE_QUADS)
  const Narrow narrow = __builtin_convertvector((bits & 0xFF) ^ 0x80, Narrow);
#else
  const Narrow narrow = __builtin_convertvector(bits << 24 >> 24, Narrow);
#endif
  if (count >= kIntLanes) {
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
    std::memcpy(lanes, &narrow, sizeof(narrow));
    std::memcpy(to, lanes, count * sizeof(QuantizedElement));
  }
}

// Quantizes a row by its largest absolute value, or by `least` if that is larger, and returns its scale: that value
// over 127. NaN or infinite, it makes the scale so, and with it every result of the row.
static inline float quantize_row(QuantizedElement* to, const float* from, int64_t count, float least) {
  IntVec most = bit_cast<IntVec>(broadcast(least));
  for (int64_t k = 0; k < count; k += kIntLanes) {
    const IntVec magnitude = bit_cast<IntVec>(load(from + k, count - k)) & 0x7FFFFFFF;  // ordered as the numbers are
    most = magnitude > most ? magnitude : most;
  }
  int32_t largest_bits = 0;
  for (int64_t lane = 0; lane < kIntLanes; ++lane) largest_bits = most[lane] > largest_bits ? most[lane] : largest_bits;
  const float largest = bit_cast<float>(largest_bits), inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (int64_t k = 0; k < count; k += kIntLanes)
    store_quantized(to + k, load(from + k, count - k) * inverse, count - k);
  return largest / 127.0f;
}

}  // namespace ulmfit_fast::ULMFIT_ISA
