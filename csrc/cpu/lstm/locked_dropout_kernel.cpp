// Limit: the way to memory and back. A thread owns a range of rows; each element is computed alone.
#include "locked_dropout_kernel.h"

#include "../gemm/simd.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

template <typename E>
void multiply(const LockedDropout<E>& a, int64_t begin, int64_t end) {
  int64_t t = 0;
  for (int64_t row = begin; row < end; ++row) {
    while (row >= a.offsets[t] + a.batch_sizes[t]) ++t;
    const E* x = a.input + row * a.features;
    const Accumulator<E>* mask = a.mask + (row - a.offsets[t]) * a.features;
    E* out = a.output + row * a.features;
    for (int64_t j = 0; j < a.features; j += kLanes<E>) {
      const int64_t count = a.features - j;
      store(out + j, load(x + j, count) * load(mask + j, count), count);
    }
  }
}

}  // namespace

extern const LockedDropoutKernels<float> locked_dropout_float;
extern const LockedDropoutKernels<double> locked_dropout_double;
extern const LockedDropoutKernels<Bfloat16> locked_dropout_bfloat16;
const LockedDropoutKernels<float> locked_dropout_float = {multiply<float>};
const LockedDropoutKernels<double> locked_dropout_double = {multiply<double>};
const LockedDropoutKernels<Bfloat16> locked_dropout_bfloat16 = {multiply<Bfloat16>};

}  // namespace ulmfit_fast::ULMFIT_ISA
