#pragma once

#include <cstdint>

namespace ulmfit_fast {

// Bytes a second that all of torch's threads together read of `bytes` of memory, each its own part again and again for
// about `seconds`: of a size that the last cache holds, or of one that it does not. The limit of a product with one
// row.
double measure_read_bandwidth(int64_t bytes, double seconds);

}  // namespace ulmfit_fast
