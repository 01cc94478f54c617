// What lstm and lstm_pool share on CPU.
#pragma once

#include <algorithm>
#include <functional>

#include "../../lstm_call.h"
#include "../runtime/elements.h"
#include "../runtime/memory.h"

namespace ulmfit_fast {

ForwardResult run_lstm_forward_cpu(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);
Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs);

// What a layer's packed weights take, for computation in `dtype`; int8 is of quantized ones.
int64_t lstm_packed_bytes(ScalarType dtype, int64_t input, int64_t hidden, int64_t output, bool projected);

// `packed` is as many bytes.
inline void check_packed(const char* function, const Tensor& packed, int64_t bytes, const Tensor& input) {
  check_device(function, "packed", packed, "input", input);
  ULMFIT_CHECK_VALUE(
      dtype_of(packed) == ScalarType::Byte && packed.dim() == 1 && packed.size(0) == bytes && packed.is_contiguous(),
      function, ": packed must be these weights as they were packed for this dtype (uint8 [", bytes, "]), got ",
      dtype_of(packed), " ", packed.sizes(), "; pack them again");
}

// The sum of both biases in the sums' type; without them zeros.
template <typename Acc>
Tensor summed_bias(const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, int64_t hidden) {
  const ScalarType dtype = std::is_same_v<Acc, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor sum = new_tensor({4 * hidden}, dtype);
  if (!bias_ih.has_value()) {
    clear(sum);
    return sum;
  }
  const Tensor of_input = converted(*bias_ih, dtype), of_hidden = converted(*bias_hh, dtype);
  const Acc *x = elements<Acc>(of_input), *y = elements<Acc>(of_hidden);
  std::transform(x, x + 4 * hidden, y, mutable_elements<Acc>(sum), std::plus<Acc>());
  return sum;
}

// The weights as a call with `packed` takes them, uint8; shapes are checked by then.
Tensor run_lstm_pack_cpu(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& weight_hr,
                         ScalarType dtype);

}  // namespace ulmfit_fast
