// lstm: one direction of one LSTM layer over packed rows. Shapes and checks that both devices share.
//
//   input [N, F]          rows of all steps, time-major, longest sequence first (as in PackedSequence)
//   batch_sizes [T]       int64 on CPU, positive, non-increasing, sum N; B = batch_sizes[0]. Of an empty batch: zeros
//   h0 [B, P], c0 [B, H]  P = H without a projection; c0 in the input's dtype or the sums' (float32 for bfloat16)
//   weight_ih [4H, F], weight_hh [4H, P], bias_ih [4H], bias_hh [4H], weight_hr [P, H]   gates i, f, g, o
#pragma once

#include <limits>
#include <vector>

#include "check.h"

namespace ulmfit_fast {

struct LstmInputs {
  const Tensor& input;
  const Tensor& batch_sizes;
  const Tensor& h0;
  const Tensor& c0;
  const Tensor& weight_ih;
  const Tensor& weight_hh;
  const OptionalTensor& bias_ih;
  const OptionalTensor& bias_hh;
  const OptionalTensor& weight_hr;
  const Tensor& seed;
  double weight_dropout;
  const Tensor* packed = nullptr;  // what lstm_pack made of the weights, for a device that takes it

  int64_t steps() const { return batch_sizes.size(0); }
  int64_t rows() const { return input.size(0); }
  int64_t batch() const { return h0.size(0); }
  int64_t input_size() const { return input.size(1); }
  int64_t hidden() const { return c0.size(1); }
  int64_t output_size() const { return h0.size(1); }
};

inline void check_batch_sizes(const char* function, const Tensor& batch_sizes, int64_t rows,
                              const char* input_name = "input") {
  ULMFIT_CHECK_TYPE(dtype_of(batch_sizes) == ScalarType::Long, function, ": batch_sizes must be int64, got ",
                    dtype_of(batch_sizes));
  ULMFIT_CHECK_VALUE(batch_sizes.is_cpu(), function, ": batch_sizes must be on CPU (as in PackedSequence), got ",
                     batch_sizes.device());
  ULMFIT_CHECK_VALUE(batch_sizes.dim() == 1 && batch_sizes.size(0) > 0, function,
                     ": batch_sizes must be one-dimensional and not empty, got shape ", batch_sizes.sizes());
  ULMFIT_CHECK_VALUE(batch_sizes.is_contiguous(), function, ": batch_sizes must be contiguous");
  const int64_t* size = batch_sizes.const_data_ptr<int64_t>();
  int64_t total = 0;
  for (int64_t t = 0; t < batch_sizes.size(0); ++t) {
    ULMFIT_CHECK_VALUE(size[t] > 0 || (size[t] == 0 && rows == 0), function, ": batch_sizes must be positive, got ",
                       size[t], " at step ", t, "; drop sequences of length zero");
    ULMFIT_CHECK_VALUE(t == 0 || size[t] <= size[t - 1], function, ": batch_sizes must not increase, got ", size[t - 1],
                       " then ", size[t], " at step ", t, "; sort the sequences longest first");
    total =
        size[t] > std::numeric_limits<int64_t>::max() - total ? std::numeric_limits<int64_t>::max() : total + size[t];
  }
  ULMFIT_CHECK_VALUE(total == rows, function, ": batch_sizes must sum to the rows of ", input_name, " (", rows,
                     "), got ", total);
}

// Where each step's rows begin.
inline std::vector<int64_t> row_offsets(const Tensor& batch_sizes) {
  std::vector<int64_t> offsets(batch_sizes.size(0), 0);
  const int64_t* size = batch_sizes.const_data_ptr<int64_t>();
  for (size_t t = 1; t < offsets.size(); ++t) offsets[t] = offsets[t - 1] + size[t - 1];
  return offsets;
}

// The type of sums, cell states and pooled states.
inline ScalarType state_dtype_of(const Tensor& input) {
  return dtype_of(input) == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A weight has the dtype of the input or, beside half precision, float32: its gradient is then float32, too.
inline void check_weight(const char* function, const char* name, const Tensor& weight, const Tensor& input) {
  if (dtype_of(weight) != state_dtype_of(input)) return check_like(function, name, weight, "input", input);
  check_device(function, name, weight, "input", input);
}

inline void check_lstm(const char* function, const LstmInputs& a, bool reverse, int64_t bptt) {
  ULMFIT_CHECK_TYPE(is_floating(dtype_of(a.input)), function, ": input must be floating point, got ",
                    dtype_of(a.input));
  ULMFIT_CHECK_VALUE(a.input.dim() == 2, function, ": input must be [rows, input_size], got ", a.input.sizes());
  ULMFIT_CHECK_VALUE(a.h0.dim() == 2 && a.c0.dim() == 2, function, ": h0 and c0 must be [batch, size], got ",
                     a.h0.sizes(), " and ", a.c0.sizes());
  check_batch_sizes(function, a.batch_sizes, a.rows());
  const int64_t batch = a.batch_sizes.const_data_ptr<int64_t>()[0];
  ULMFIT_CHECK_VALUE(batch == a.batch(), function, ": h0 must have batch_sizes[0] = ", batch, " rows, got ", a.batch());
  ULMFIT_CHECK_VALUE(a.input_size() > 0 && a.hidden() > 0 && a.output_size() > 0, function,
                     ": sizes must be positive, got input ", a.input.sizes(), ", h0 ", a.h0.sizes(), ", c0 ",
                     a.c0.sizes());
  const int64_t gates = 4 * a.hidden();
  check_shape(function, "c0", a.c0, {a.batch(), a.hidden()});
  check_shape(function, "weight_ih", a.weight_ih, {gates, a.input_size()});
  check_shape(function, "weight_hh", a.weight_hh, {gates, a.output_size()});
  check_like(function, "h0", a.h0, "input", a.input);
  check_weight(function, "c0", a.c0, a.input);
  check_weight(function, "weight_ih", a.weight_ih, a.input);
  check_weight(function, "weight_hh", a.weight_hh, a.input);
  ULMFIT_CHECK_VALUE(a.bias_ih.has_value() == a.bias_hh.has_value(), function,
                     ": give both of bias_ih and bias_hh or neither");
  if (a.bias_ih.has_value()) {
    check_shape(function, "bias_ih", *a.bias_ih, {gates});
    check_shape(function, "bias_hh", *a.bias_hh, {gates});
    check_weight(function, "bias_ih", *a.bias_ih, a.input);
    check_weight(function, "bias_hh", *a.bias_hh, a.input);
  }
  if (a.weight_hr.has_value()) {
    check_shape(function, "weight_hr", *a.weight_hr, {a.output_size(), a.hidden()});
    check_weight(function, "weight_hr", *a.weight_hr, a.input);
  } else {
    ULMFIT_CHECK_VALUE(a.output_size() == a.hidden(), function,
                       ": h0 and c0 must have the same width without weight_hr, got ", a.output_size(), " and ",
                       a.hidden());
  }
  check_seed(function, a.seed);
  ULMFIT_CHECK_VALUE(a.seed.is_cpu() || on_same_device(a.seed, a.input), function,
                     ": seed must be on CPU or on the device of input (", a.input.device(), "), got ", a.seed.device());
  check_drop_probability(function, a.weight_dropout);
  ULMFIT_CHECK_VALUE(bptt >= 0, function, ": bptt must be 0 (no limit) or positive, got ", bptt);
  ULMFIT_CHECK_VALUE(bptt == 0 || !reverse, function, ": bptt does not work with reverse; reverse the input instead");
}

}  // namespace ulmfit_fast
