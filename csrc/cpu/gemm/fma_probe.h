#pragma once

#include <string>

namespace ulmfit_fast {

// Floating-point operations a second that all of torch's threads reach together in a loop of multiply-adds on registers
// that runs for about `seconds`. dtype: "float32" or "bfloat16" (std::invalid_argument otherwise).
double measure_fma_peak(const std::string& dtype, double seconds);

}  // namespace ulmfit_fast
