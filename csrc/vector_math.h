// exp, log and log1p as short polynomials that the compiler can vectorise, in float; std:: in double.
//
// The loops that use them are plain C++ loops over small float buffers. Each lives in a function marked
// FOCALDET_CLONES, which is compiled for the baseline, for AVX2 with FMA and for AVX-512; the loader picks one when
// the library is loaded. NaN passes through everything here: no flag that assumes it away is used.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(FOCALDET_NO_CLONES)
#define FOCALDET_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FOCALDET_CLONES
#endif
#ifdef _MSC_VER
#define FOCALDET_INLINE __forceinline
#else
#define FOCALDET_INLINE [[gnu::always_inline]] inline
#endif

namespace focaldet {

constexpr int kBlock = 512;  // elements of the scratch buffers: a few kB each, in the first-level cache

constexpr float kLowest = -87.3f;  // whose exp is about the smallest normal float, 1e-38

// exp(x) for kLowest <= x <= 0, to 1e-7.
// x = n log 2 + r with |r| <= log(2) / 2; exp(r) = 1 + r + r² P(r); 2^n by its bits.
FOCALDET_INLINE float exp_bounded(float x) {
  const float shifted = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: n is in the low bits
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float r2 = r * r;
  const float p01 = 1.666651884e-1f * r + 5.000000095e-1f;
  const float p23 = 8.368889558e-3f * r + 4.166620583e-2f;
  const float p = (1.395048916e-3f * r2 + p23) * r2 + p01;
  const float mantissa = p * r2 + (r + 1.f);
  const uint32_t bits = (std::bit_cast<uint32_t>(shifted) << 23) + (127u << 23);
  return mantissa * std::bit_cast<float>(bits);
}

// exp(x) for x <= 0; below kLowest it stays at 1e-38.
FOCALDET_INLINE float exp_nonpositive(float x) {
  return exp_bounded(kLowest > x ? kLowest : x);  // false for NaN, which stays
}

// -|z|, but not below kLowest, which NaN becomes too. On bits: a comparison of floats takes the compiler twice as long.
FOCALDET_INLINE float minus_size(float z) {
  const uint32_t size = std::bit_cast<uint32_t>(z) | 0x80000000u, lowest = std::bit_cast<uint32_t>(kLowest);
  return std::bit_cast<float>(size < lowest ? size : lowest);
}

// 2 atanh(s) for |s| <= 1/3, to 1e-8: log((1 + s) / (1 - s)).
FOCALDET_INLINE float twice_atanh(float s) {
  const float t = s * s;
  float p = 1.400599685e-1f;
  p = p * t + 1.400090179e-1f;
  p = p * t + 2.001076369e-1f;
  p = p * t + 3.333320814e-1f;
  return 2.f * (s + s * t * p);
}

// log(1 + u) = u + u² R(u) for u in [0, 1], to 5e-8; R in pairs, so that the steps do not wait for each other.
FOCALDET_INLINE float log1p_unit(float u) {
  const float u2 = u * u;
  const float r01 = 3.332132196e-1f * u - 4.999964794e-1f;
  const float r23 = 1.915363319e-1f * u - 2.485715821e-1f;
  const float r45 = 7.920398216e-2f * u - 1.375375565e-1f;
  const float r67 = 5.364739059e-3f * u - 3.006545132e-2f;
  const float u4 = u2 * u2;
  const float r = (r67 * u2 + r45) * u4 + (r23 * u2 + r01);
  return r * u2 + u;
}

// exp(x) - 1 - x = x² R(x) for |x| <= 1, to 2e-7 of its value, also near 0.
FOCALDET_INLINE float exp_excess(float x) {
  const float x2 = x * x;
  const float r01 = 1.666669548e-1f * x + 5.000000000e-1f;
  const float r23 = 8.330930024e-3f * x + 4.166651517e-2f;
  const float r45 = 2.032548509e-4f * x + 1.389133511e-3f;
  return ((2.496081470e-5f * x2 + r45) * x2 + r23) * (x2 * x2) + r01 * x2;
}

// log(x) for normal x > 0; about -88 for 0. x = 2^n m with m in [sqrt(1/2), sqrt(2)).
FOCALDET_INLINE float log_positive(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t offset = bits - 0x3f3504f3u;  // bits of sqrt(1/2)
  const float n = static_cast<float>(static_cast<int32_t>(offset) >> 23);
  const float m = std::bit_cast<float>((offset & 0x007fffffu) + 0x3f3504f3u);
  const float y = n * 0.693147181f + twice_atanh((m - 1.f) / (m + 1.f));
  return x != x ? x : y;
}

FOCALDET_INLINE double exp_bounded(double x) { return std::exp(x); }
FOCALDET_INLINE double exp_nonpositive(double x) { return std::exp(x); }
FOCALDET_INLINE double minus_size(double z) { return -std::fabs(z); }
FOCALDET_INLINE double log1p_unit(double u) { return std::log1p(u); }
FOCALDET_INLINE double log_positive(double x) { return std::log(x); }

// Exponents that need no logarithm have a separate path.
enum class Power { kZero, kOne, kTwo, kAny };

inline Power power_of(double exponent) {
  return exponent == 0 ? Power::kZero : exponent == 1 ? Power::kOne : exponent == 2 ? Power::kTwo : Power::kAny;
}

// base ** exponent for base >= 0; 0 where base is 0 (the exponent 0 is a separate case).
template <Power P, class T>
FOCALDET_INLINE T power(T base, T exponent) {
  if constexpr (P == Power::kZero) return T(1);
  if constexpr (P == Power::kOne) return base;
  if constexpr (P == Power::kTwo) return base * base;
  const T y = exp_nonpositive(exponent * log_positive(base));
  return base == T(0) ? T(0) : y;
}

// Sum of floats, always in the same order: fours in float (two roundings, no drift), and these in double.
FOCALDET_INLINE double sum_lanes(const float* x, int n) {
  constexpr int kWidth = 8;
  double lane[kWidth] = {};
  int j = 0;
  for (; j + 4 * kWidth <= n; j += 4 * kWidth)
    for (int k = 0; k < kWidth; ++k) {
      const float* y = x + j + k;
      lane[k] += (y[0] + y[kWidth]) + (y[2 * kWidth] + y[3 * kWidth]);
    }
  for (; j < n; ++j) lane[j % kWidth] += x[j];
  double sum = 0;
  for (int k = 0; k < kWidth; ++k) sum += lane[k];
  return sum;
}

}  // namespace focaldet
