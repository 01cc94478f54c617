// Gathers the kernels of the instruction set that this file is compiled for; dispatch.cpp chooses among the tables.
#include "kernel_table.h"

#include "../gemm/simd.h"  // ULMFIT_ISA

namespace ulmfit_fast::ULMFIT_ISA {

// Defined by the kernel files.
extern const LstmKernels<float> lstm_float;
extern const LstmKernels<double> lstm_double;
extern const LstmKernels<Bfloat16> lstm_bfloat16;
extern const LockedDropoutKernels<float> locked_dropout_float;
extern const LockedDropoutKernels<double> locked_dropout_double;
extern const LockedDropoutKernels<Bfloat16> locked_dropout_bfloat16;
extern const LinearCrossEntropyKernels<float> linear_cross_entropy_float;
extern const LinearCrossEntropyKernels<double> linear_cross_entropy_double;
extern const LinearCrossEntropyKernels<Bfloat16> linear_cross_entropy_bfloat16;
extern const LinearKernels<float> linear_float;
extern const LinearKernels<double> linear_double;
extern const LinearKernels<Bfloat16> linear_bfloat16;
extern const ForgetMultKernels<float> forget_mult_float;
extern const ForgetMultKernels<double> forget_mult_double;
extern const ForgetMultKernels<Bfloat16> forget_mult_bfloat16;
extern const DropConnectKernels dropconnect;
extern const FmaProbeKernels fma_probe;

extern const KernelTable kernels;
const KernelTable kernels = {
    {&lstm_float, &locked_dropout_float, &linear_cross_entropy_float, &linear_float, &forget_mult_float},
    {&lstm_double, &locked_dropout_double, &linear_cross_entropy_double, &linear_double, &forget_mult_double},
    {&lstm_bfloat16, &locked_dropout_bfloat16, &linear_cross_entropy_bfloat16, &linear_bfloat16, &forget_mult_bfloat16},
    &dropconnect,
    &fma_probe,
};

}  // namespace ulmfit_fast::ULMFIT_ISA
