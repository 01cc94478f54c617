#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernel_table.h"

namespace ulmfit_fast {

// Each is kernel_table.cpp compiled for that instruction set.
namespace portable {
extern const KernelTable kernels;
extern const LstmQuantizedKernels lstm_quantized;
}  // namespace portable
#ifdef ULMFIT_X86_KERNELS
namespace avx2 {
extern const KernelTable kernels;
extern const LstmQuantizedKernels lstm_quantized;
}  // namespace avx2
namespace avx2_vnni {  // only what multiplies int8
extern const LstmQuantizedKernels lstm_quantized;
}
namespace avx512 {
extern const KernelTable kernels;
extern const LstmQuantizedKernels lstm_quantized;
}  // namespace avx512
namespace avx512_vnni {  // only what multiplies int8
extern const LstmQuantizedKernels lstm_quantized;
}
namespace avx512_bf16 {
extern const KernelTable kernels;
}
#endif

namespace {

bool supported(Isa isa) {
#ifdef ULMFIT_EMULATE_AVX512
  if (isa != Isa::kAvx2 && isa != Isa::kPortable) return supported(Isa::kAvx2);
#endif
#ifdef ULMFIT_X86_KERNELS
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx512Bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::kAvx512Vnni) return avx512 && __builtin_cpu_supports("avx512vnni");
  if (isa == Isa::kAvx512) return avx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx2Vnni) return avx2 && __builtin_cpu_supports("avxvnni");
  if (isa == Isa::kAvx2) return avx2;
#endif
  return isa == Isa::kPortable;
}

Isa choose_isa() {
  const Isa best_first[] = {Isa::kAvx512Bf16, Isa::kAvx512Vnni, Isa::kAvx512,
                            Isa::kAvx2Vnni,   Isa::kAvx2,       Isa::kPortable};
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
                           ": expected avx512_bf16, avx512_vnni, avx512, avx2_vnni, avx2 or portable");
}

const KernelTable& kernels() {
  switch (active_isa()) {
#ifdef ULMFIT_X86_KERNELS
    case Isa::kAvx512Bf16:
      return avx512_bf16::kernels;
    case Isa::kAvx512Vnni:
    case Isa::kAvx512:
      return avx512::kernels;
    case Isa::kAvx2Vnni:
    case Isa::kAvx2:
      return avx2::kernels;
#endif
    default:
      return portable::kernels;
  }
}

template <typename E>
const TypedKernels<E>& kernels_of() {
  if constexpr (std::is_same_v<E, float>)
    return kernels().of_float;
  else if constexpr (std::is_same_v<E, double>)
    return kernels().of_double;
  else
    return kernels().of_bfloat16;
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
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2Vnni:
      return "avx2_vnni";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

template <typename E>
const LstmKernels<E>& lstm_kernels() {
  return *kernels_of<E>().lstm;
}
template <typename E>
const LockedDropoutKernels<E>& locked_dropout_kernels() {
  return *kernels_of<E>().locked_dropout;
}
template <typename E>
const LinearCrossEntropyKernels<E>& linear_cross_entropy_kernels() {
  return *kernels_of<E>().linear_cross_entropy;
}
template <typename E>
const LinearKernels<E>& linear_kernels() {
  return *kernels_of<E>().linear;
}
template <typename E>
const ForgetMultKernels<E>& forget_mult_kernels() {
  return *kernels_of<E>().forget_mult;
}
const LstmQuantizedKernels& lstm_quantized_kernels() {
  switch (active_isa()) {
#ifdef ULMFIT_X86_KERNELS
    case Isa::kAvx512Bf16:  // every processor with it has VNNI, but an emulated one may not
      return supported(Isa::kAvx512Vnni) ? avx512_vnni::lstm_quantized : avx512::lstm_quantized;
    case Isa::kAvx512Vnni:
      return avx512_vnni::lstm_quantized;
    case Isa::kAvx512:
      return avx512::lstm_quantized;
    case Isa::kAvx2Vnni:
      return avx2_vnni::lstm_quantized;
    case Isa::kAvx2:
      return avx2::lstm_quantized;
#endif
    default:
      return portable::lstm_quantized;
  }
}
const DropConnectKernels& dropconnect_kernels() {
  return *kernels().dropconnect;
}
const FmaProbeKernels& fma_probe_kernels() {
  return *kernels().fma_probe;
}

template const LstmKernels<float>& lstm_kernels();
template const LstmKernels<double>& lstm_kernels();
template const LstmKernels<Bfloat16>& lstm_kernels();
template const LockedDropoutKernels<float>& locked_dropout_kernels();
template const LockedDropoutKernels<double>& locked_dropout_kernels();
template const LockedDropoutKernels<Bfloat16>& locked_dropout_kernels();
template const LinearCrossEntropyKernels<float>& linear_cross_entropy_kernels();
template const LinearCrossEntropyKernels<double>& linear_cross_entropy_kernels();
template const LinearCrossEntropyKernels<Bfloat16>& linear_cross_entropy_kernels();
template const LinearKernels<float>& linear_kernels();
template const LinearKernels<double>& linear_kernels();
template const LinearKernels<Bfloat16>& linear_kernels();
template const ForgetMultKernels<float>& forget_mult_kernels();
template const ForgetMultKernels<double>& forget_mult_kernels();
template const ForgetMultKernels<Bfloat16>& forget_mult_kernels();

}  // namespace ulmfit_fast
