// A weight on its way into a panel: its rows, masked and scaled or converted in a small buffer, never the whole tensor.
#pragma once

#include "mask_bits.h"
#include "weight.h"

namespace ulmfit_fast::ULMFIT_ISA {

// A weight [rows, columns], row-major, as the packers read it.
template <typename E>
struct DroppedWeight {
  Weight<E> weight;
  int64_t columns;
  MaskBits mask;
  E* buffer;  // scratch for as many rows as the packer asks for at a time

  // Elements begin .. begin + count of row `index`: in place, or in slot `slot` of the buffer if dropped or converted.
  const E* row(int64_t index, int64_t begin, int64_t count, int64_t slot) const {
    const int64_t first = index * columns + begin;
    if (weight.own != nullptr && !mask) return weight.own + first;
    E* to = buffer + slot * count;
    if (weight.own != nullptr)
      drop(to, weight.own + first, mask, first, count);
    else if (mask)
      drop(to, weight.master + first, mask, first, count);
    else
      for (int64_t j = 0; j < count; j += kLanes<E>)
        store(to + j, load(weight.master + first + j, count - j), count - j);
    return to;
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
