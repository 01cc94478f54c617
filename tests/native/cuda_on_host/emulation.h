#pragma once  // in emulation.h
// csrc/cuda on the host: compiled with this header first, and this folder before torch's in the include path, it runs
// on the CPU, kernels and all that calls them, and takes the CPU's place in torch's dispatcher. For tests where there
// is no GPU; says nothing about races within a block, streams or speed.

#include <torch/csrc/stable/library.h>

#include "language.h"

// All registrations are for the CPU.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(library, key, m) _STABLE_TORCH_LIBRARY_IMPL(library, CPU, m, C10_UID)
