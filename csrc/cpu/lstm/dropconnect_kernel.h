// The DropConnect mask on its own. Torch-free (see lstm_kernel.h).
#pragma once

#include <cstdint>

#include "../../common/philox.h"

namespace ulmfit_fast {

struct DropConnectKernels {
  // keep[j] = 1 where element first + j of the flattened weight is kept, j < count
  void (*mask)(uint8_t* keep, const DropConnect&, int64_t first, int64_t count);
};

// The kernels of the instruction set in use.
const DropConnectKernels& dropconnect_kernels();

}  // namespace ulmfit_fast
