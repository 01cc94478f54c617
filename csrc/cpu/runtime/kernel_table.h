// All kernels of one instruction set. Torch-free.
#pragma once

#include "../cross_entropy/linear_cross_entropy_kernel.h"
#include "../gemm/fma_probe_kernel.h"
#include "../gemm/linear_kernel.h"
#include "../lstm/dropconnect_kernel.h"
#include "../lstm/locked_dropout_kernel.h"
#include "../lstm/lstm_kernel.h"
#include "../lstm/lstm_quantized_kernel.h"
#include "../qrnn/forget_mult_kernel.h"

namespace ulmfit_fast {

// The kernels of one element type.
template <typename E>
struct TypedKernels {
  const LstmKernels<E>* lstm;
  const LockedDropoutKernels<E>* locked_dropout;
  const LinearCrossEntropyKernels<E>* linear_cross_entropy;
  const LinearKernels<E>* linear;
  const ForgetMultKernels<E>* forget_mult;
};

struct KernelTable {
  TypedKernels<float> of_float;
  TypedKernels<double> of_double;
  TypedKernels<Bfloat16> of_bfloat16;
  const DropConnectKernels* dropconnect;
  const FmaProbeKernels* fma_probe;
};

}  // namespace ulmfit_fast
