#include "half.h"

#include <cstring>

#include "bfloat16.h"
#include "vector_math.h"

namespace focaldet {
namespace {

// Exponent and mantissa shifted into a float's place, then scaled by 2^(127 - 15); this handles subnormals too.
FOCALDET_INLINE float from_half(uint16_t x) {
  const uint32_t magnitude = x & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const float finite = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t special = 0x7f800000u | (magnitude << 13);  // infinity, or NaN with its payload
  const uint32_t bits = magnitude >= 0x7c00u ? special : std::bit_cast<uint32_t>(finite);
  return std::bit_cast<float>(bits | sign);
}

FOCALDET_INLINE uint16_t to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: adding 2^-1 shifts the value so that the unit in the last place is that of a subnormal half.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds beyond 65504
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // NaN
  return static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u));
}

FOCALDET_CLONES void load_bfloat16(const uint16_t* x, int n, float* to) {
  for (int j = 0; j < n; ++j) to[j] = from_bfloat16(x[j]);
}
FOCALDET_CLONES void load_half(const uint16_t* x, int n, float* to) {
  for (int j = 0; j < n; ++j) to[j] = from_half(x[j]);
}
FOCALDET_CLONES void store_bfloat16(const float* x, int n, uint16_t* to) {
  for (int j = 0; j < n; ++j) to[j] = to_bfloat16(x[j]);
}
FOCALDET_CLONES void store_half(const float* x, int n, uint16_t* to) {
  for (int j = 0; j < n; ++j) to[j] = to_half(x[j]);
}

}  // namespace

void load_block(Dtype dtype, const void* source, int64_t offset, int n, float* to) {
  if (dtype == Dtype::kFloat) {
    std::memcpy(to, static_cast<const float*>(source) + offset, sizeof(float) * n);
  } else {
    (dtype == Dtype::kBFloat16 ? load_bfloat16 : load_half)(static_cast<const uint16_t*>(source) + offset, n, to);
  }
}

void store_block(Dtype dtype, void* target, int64_t offset, int n, const float* from) {
  if (dtype == Dtype::kFloat) {
    std::memcpy(static_cast<float*>(target) + offset, from, sizeof(float) * n);
  } else {
    (dtype == Dtype::kBFloat16 ? store_bfloat16 : store_half)(from, n, static_cast<uint16_t*>(target) + offset);
  }
}

float load_one(Dtype dtype, const void* source, int64_t offset) {
  if (dtype == Dtype::kFloat) return static_cast<const float*>(source)[offset];
  const uint16_t x = static_cast<const uint16_t*>(source)[offset];
  return dtype == Dtype::kBFloat16 ? from_bfloat16(x) : from_half(x);
}

}  // namespace focaldet
