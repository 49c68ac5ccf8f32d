// bfloat16 as a number in memory, for templates over it and float. half.h has whole blocks, of all three dtypes.
#pragma once

#include <bit>
#include <cstdint>

#include "vector_math.h"

namespace focaldet {

struct BFloat16 {
  uint16_t bits;
};

FOCALDET_INLINE float to_float(float x) { return x; }
FOCALDET_INLINE float to_float(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

FOCALDET_INLINE void assign(float& to, float x) { to = x; }
FOCALDET_INLINE void assign(BFloat16& to, float x) {  // to nearest even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, nan = (bits >> 16) | 0x40u;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

}  // namespace focaldet
