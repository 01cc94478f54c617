// The instructions of the innermost loops: load a weight, broadcast a value, multiply and add. All inline assembly of
// the kernels but ULMFIT_PIN (simd.h) is here.
#pragma once

#include "simd.h"

namespace ulmfit_fast::ULMFIT_ISA {

// With AVX2 and NEON the innermost loop's instructions stand in the order written: with 15 of 16 registers in use, or
// 29 of 32, GCC 12 reorders loads and spills as soon as groups are unrolled. AddressSanitizer does not see what such
// instructions read, so its builds do without.
#if defined(__FMA__) && ULMFIT_VECTOR_BYTES == 32 && !defined(__SANITIZE_ADDRESS__)
constexpr bool kOrdered = true;

template <typename T>
inline void load_weight(Vec<T>& weight, const T* from) {
  asm volatile("vmovups %1, %0" : "=x"(weight) : "m"(*reinterpret_cast<const Vec<T>*>(from)));
}
inline void broadcast_value(Vec<float>& value, const float* from) {
  asm volatile("vbroadcastss %1, %0" : "=x"(value) : "m"(*from));
}
inline void broadcast_value(Vec<double>& value, const double* from) {
  asm volatile("vbroadcastsd %1, %0" : "=x"(value) : "m"(*from));
}
inline void fused_multiply_add(Vec<float>& sum, Vec<float> value, Vec<float> weight) {
  asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(value), "x"(weight));
}
inline void fused_multiply_add(Vec<double>& sum, Vec<double> value, Vec<double> weight) {
  asm volatile("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(value), "x"(weight));
}

#elif defined(__aarch64__) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kOrdered = true;

template <typename T>
inline void load_weight(Vec<T>& weight, const T* from) {
  asm volatile("ldr %q0, %1" : "=w"(weight) : "m"(*reinterpret_cast<const Vec<T>*>(from)));
}
inline void broadcast_value(Vec<float>& value, const float* from) {
  asm volatile("ld1r {%0.4s}, %1" : "=w"(value) : "Q"(*from));
}
inline void broadcast_value(Vec<double>& value, const double* from) {
  asm volatile("ld1r {%0.2d}, %1" : "=w"(value) : "Q"(*from));
}
inline void fused_multiply_add(Vec<float>& sum, Vec<float> value, Vec<float> weight) {
  asm volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum) : "w"(value), "w"(weight));
}
inline void fused_multiply_add(Vec<double>& sum, Vec<double> value, Vec<double> weight) {
  asm volatile("fmla %0.2d, %1.2d, %2.2d" : "+w"(sum) : "w"(value), "w"(weight));
}

#else
constexpr bool kOrdered = false;

// Pinned: GCC otherwise folds each load into six multiply-adds, and the load port bounds the tile at 0.8 of the peak.
template <typename T>
inline void load_weight(Vec<T>& weight, const T* from) {
  weight = load(from);
  ULMFIT_PIN(weight);
}
template <typename T>
inline void broadcast_value(Vec<T>& value, const T* from) {
  value = broadcast(*from);
  ULMFIT_PIN(value);
}
template <typename Vector>
inline void fused_multiply_add(Vector& sum, Vector value, Vector weight) {
  sum += value * weight;
}

#endif

#if defined(ULMFIT_BFLOAT16_PAIRS)

// sum += both products of pairs of bfloat16. As an instruction, not _mm512_dpbf16_ps: around its type GCC 12 spills in
// the innermost loop.
inline void multiply_add_pairs(Vec<float>& sum, WordVec value, WordVec weight) {
#if defined(__AVX512BF16__)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(value), "v"(weight));
#else
  sum += bit_cast<Vec<float> >(value << 16) * bit_cast<Vec<float> >(weight << 16);
  sum += bit_cast<Vec<float> >(value & 0xFFFF0000u) * bit_cast<Vec<float> >(weight & 0xFFFF0000u);
#endif
}

#endif

}  // namespace ulmfit_fast::ULMFIT_ISA
