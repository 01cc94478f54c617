// What CUDA kernels take from torch, where there is no torch: an element of two bytes that converts as torch's does.
#pragma once

#include <cstdint>
#include <cstring>

namespace c10 {

struct alignas(2) BFloat16 {
  uint16_t x;

  BFloat16() = default;
  BFloat16(float value) {  // to the nearest, of two the even one
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    x = value != value ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

}  // namespace c10
