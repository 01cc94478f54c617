// The DropConnect mask on CUDA, as dropconnect_mask.cpp launches it.
#pragma once

#include "elements.h"

namespace ulmfit_fast::cuda {

// keep [elements] is written whole; seed is read on the device, so that no call waits for it.
void draw_mask(cudaStream_t stream, bool* keep, const int64_t* seed, uint64_t threshold, int64_t elements);

}  // namespace ulmfit_fast::cuda
