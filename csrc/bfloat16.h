// Single numbers in bfloat16. half.h has whole blocks, of all three dtypes.
#pragma once

#include <bit>
#include <cstdint>

#include "vector_math.h"

namespace focaldet {

FOCALDET_INLINE float from_bfloat16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

FOCALDET_INLINE uint16_t to_bfloat16(float x) {  // to nearest even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(x != x ? 0x7fc0u : rounded >> 16);
}

// For templates over it and float.
struct BFloat16 {
  uint16_t bits;
};

FOCALDET_INLINE float to_float(float x) { return x; }
FOCALDET_INLINE float to_float(BFloat16 x) { return from_bfloat16(x.bits); }

FOCALDET_INLINE void assign(float& to, float x) { to = x; }
FOCALDET_INLINE void assign(BFloat16& to, float x) { to.bits = to_bfloat16(x); }

}  // namespace focaldet
