// What lstm and lstm_pool share on CPU.
#pragma once

#include "../../lstm_call.h"

namespace ulmfit_fast {

ForwardResult run_lstm_forward_cpu(const LstmInputs& a, const PoolInputs* pool, bool reverse, Keep keep);
Backward run_lstm_backward_cpu(const ResultGradients& grads, const LstmInputs& a, const PoolInputs* pool, bool reverse,
                               int64_t bptt, const Saved& saved, Needs needs);

// What a layer's packed weights take, for computation in `dtype`; int8 is of quantized ones.
int64_t lstm_packed_bytes(at::ScalarType dtype, int64_t input, int64_t hidden, int64_t output, bool projected);

// `packed` is as many bytes.
inline void check_packed(const char* function, const at::Tensor& packed, int64_t bytes, const at::Tensor& input) {
  check_device(function, "packed", packed, "input", input);
  TORCH_CHECK_VALUE(
      packed.scalar_type() == at::kByte && packed.dim() == 1 && packed.size(0) == bytes && packed.is_contiguous(),
      function, ": packed must be these weights as they were packed for this dtype (uint8 [", bytes, "]), got ",
      packed.scalar_type(), " ", packed.sizes(), "; pack them again");
}

// The weights as a call with `packed` takes them, uint8; shapes are checked by then.
at::Tensor run_lstm_pack_cpu(const at::Tensor& weight_ih, const at::Tensor& weight_hh, const OptionalTensor& weight_hr,
                             at::ScalarType dtype);

}  // namespace ulmfit_fast
