// DropConnect on its own: the mask, and the mask applied to a gradient. Torch-free (see lstm_kernel.h).
#pragma once

#include <cstdint>

#include "../common/philox.h"

namespace ulmfit_fast {

struct DropConnectKernels {
  // keep[j] = 1 where element first + j of the flattened weight is kept, j < count
  void (*mask)(uint8_t* keep, const DropConnect&, int64_t first, int64_t count);
  // values[j] *= mask * scale, for the same elements; keep is scratch of `count` bytes
  void (*drop_float)(float* values, uint8_t* keep, const DropConnect&, int64_t first, int64_t count);
  void (*drop_double)(double* values, uint8_t* keep, const DropConnect&, int64_t first, int64_t count);
};

// Of the instruction set in use.
const DropConnectKernels& dropconnect_kernels();

}  // namespace ulmfit_fast
