#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "../cross_entropy/linear_cross_entropy_kernel.h"
#include "../gemm/fma_probe_kernel.h"
#include "../lstm/dropconnect_kernel.h"
#include "../lstm/locked_dropout_kernel.h"
#include "../lstm/lstm_kernel.h"

namespace ulmfit_fast {

// Defined once per instruction set by the kernel files.
#define ULMFIT_DECLARE_KERNELS(isa)                                               \
  namespace isa {                                                                 \
  extern const LstmKernels<float> lstm_float;                                     \
  extern const LstmKernels<double> lstm_double;                                   \
  extern const LstmKernels<Bfloat16> lstm_bfloat16;                               \
  extern const LockedDropoutKernels<float> locked_dropout_float;                  \
  extern const LockedDropoutKernels<double> locked_dropout_double;                \
  extern const LockedDropoutKernels<Bfloat16> locked_dropout_bfloat16;            \
  extern const LinearCrossEntropyKernels<float> linear_cross_entropy_float;       \
  extern const LinearCrossEntropyKernels<double> linear_cross_entropy_double;     \
  extern const LinearCrossEntropyKernels<Bfloat16> linear_cross_entropy_bfloat16; \
  extern const DropConnectKernels dropconnect;                                    \
  extern const FmaProbeKernels fma_probe;                                         \
  }
ULMFIT_DECLARE_KERNELS(portable)
#ifdef ULMFIT_X86_KERNELS
ULMFIT_DECLARE_KERNELS(avx2)
ULMFIT_DECLARE_KERNELS(avx512)
ULMFIT_DECLARE_KERNELS(avx512_bf16)
#endif

namespace {

bool supported(Isa isa) {
#ifdef ULMFIT_EMULATE_AVX512
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Bf16) return supported(Isa::kAvx2);
#endif
#ifdef ULMFIT_X86_KERNELS
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx512Bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::kAvx512) return avx512;
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::kPortable;
}

Isa choose_isa() {
  const Isa best_first[] = {Isa::kAvx512Bf16, Isa::kAvx512, Isa::kAvx2, Isa::kPortable};
  const char* wanted = std::getenv("ULMFIT_FAST_ISA");
  for (const Isa isa : best_first) {
    if (wanted != nullptr && *wanted != '\0') {
      if (std::string(wanted) != isa_name(isa)) continue;
      if (!supported(isa))
        throw std::runtime_error(std::string("ULMFIT_FAST_ISA=") + wanted +
                                 ": this processor (or this build) lacks it; unset the variable");
      return isa;
    }
    if (supported(isa)) return isa;
  }
  throw std::runtime_error(std::string("ULMFIT_FAST_ISA=") + wanted +
                           ": expected avx512_bf16, avx512, avx2 or portable");
}

template <typename Kernels>
const Kernels& select(const Kernels& portable_build, const Kernels& avx2_build, const Kernels& avx512_build,
                      const Kernels& avx512_bf16_build) {
  switch (active_isa()) {
    case Isa::kAvx512Bf16:
      return avx512_bf16_build;
    case Isa::kAvx512:
      return avx512_build;
    case Isa::kAvx2:
      return avx2_build;
    default:
      return portable_build;
  }
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

#ifdef ULMFIT_X86_KERNELS
#define ULMFIT_SELECT(kernels) select(portable::kernels, avx2::kernels, avx512::kernels, avx512_bf16::kernels)
#else
#define ULMFIT_SELECT(kernels) portable::kernels
#endif

template <>
const LstmKernels<float>& lstm_kernels<float>() {
  return ULMFIT_SELECT(lstm_float);
}

template <>
const LstmKernels<double>& lstm_kernels<double>() {
  return ULMFIT_SELECT(lstm_double);
}

template <>
const LstmKernels<Bfloat16>& lstm_kernels<Bfloat16>() {
  return ULMFIT_SELECT(lstm_bfloat16);
}

template <>
const LockedDropoutKernels<float>& locked_dropout_kernels<float>() {
  return ULMFIT_SELECT(locked_dropout_float);
}

template <>
const LockedDropoutKernels<double>& locked_dropout_kernels<double>() {
  return ULMFIT_SELECT(locked_dropout_double);
}

template <>
const LockedDropoutKernels<Bfloat16>& locked_dropout_kernels<Bfloat16>() {
  return ULMFIT_SELECT(locked_dropout_bfloat16);
}

template <>
const LinearCrossEntropyKernels<float>& linear_cross_entropy_kernels<float>() {
  return ULMFIT_SELECT(linear_cross_entropy_float);
}

template <>
const LinearCrossEntropyKernels<double>& linear_cross_entropy_kernels<double>() {
  return ULMFIT_SELECT(linear_cross_entropy_double);
}

template <>
const LinearCrossEntropyKernels<Bfloat16>& linear_cross_entropy_kernels<Bfloat16>() {
  return ULMFIT_SELECT(linear_cross_entropy_bfloat16);
}

const DropConnectKernels& dropconnect_kernels() {
  return ULMFIT_SELECT(dropconnect);
}

const FmaProbeKernels& fma_probe_kernels() {
  return ULMFIT_SELECT(fma_probe);
}

}  // namespace ulmfit_fast
