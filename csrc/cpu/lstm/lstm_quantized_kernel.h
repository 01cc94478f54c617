// What lstm_quantized.cpp (torch) and lstm_quantized_kernel.cpp (compiled once per instruction set, no torch) agree on.
// Sizes and rows as in lstm_kernel.h; there is no projection of h.
#pragma once

#include "lstm_kernel.h"

namespace ulmfit_fast {

// Weights in int8, each row times its scale: packed for any number of calls.
struct LstmQuantizedPack {
  LstmSizes sizes;          // input and hidden are read
  const int8_t* weight_ih;  // [4H, F]
  const float* scale_ih;    // [4H]
  const int8_t* weight_hh;  // [4H, H]
  const float* scale_hh;    // [4H]
  std::byte* packed;        // packed_bytes(...) bytes, 64-byte aligned, written
};

struct LstmQuantizedForward {
  LstmSizes sizes;
  Grid grid;
  Pool<float> pool;
  bool keep_output;         // else output is [2, B, H]: of the step and of the one before it
  const float* input;       // [N, F]
  const float* h0;          // [B, H]
  const std::byte* packed;  // what `pack` made of the weights
  const float* bias;        // [4H], both biases summed
  float* output;            // [N, H]  written
  float* h_n;               // [B, H]  written: each row's h after its last step of computation
  float* c;                 // [B, H] holds c0; on return each row's last cell state
  std::byte* scratch;       // scratch(...) bytes, 64-byte aligned
};

struct LstmQuantizedKernels {
  int64_t lanes, rows;  // as LstmKernels
  int64_t (*packed_bytes)(const LstmSizes&);
  void (*pack)(const LstmQuantizedPack&, Member);
  int64_t (*scratch)(const LstmQuantizedForward&);
  void (*forward)(const LstmQuantizedForward&, Member);
};

// The kernels of the instruction set in use.
const LstmQuantizedKernels& lstm_quantized_kernels();

}  // namespace ulmfit_fast
