// Which instruction set the kernels use: the best this processor has, or what ULMFIT_FAST_ISA asks for.
#pragma once

namespace ulmfit_fast {

// Those with VNNI have their own int8 kernels, and for the rest the kernels of the one before.
enum class Isa { kPortable, kAvx2, kAvx2Vnni, kAvx512, kAvx512Vnni, kAvx512Bf16 };

// Decided once a process. An ULMFIT_FAST_ISA that is unknown or that this processor lacks is an error
// (std::runtime_error).
Isa active_isa();
const char* isa_name(Isa isa);

}  // namespace ulmfit_fast
