// Transpose rows of floats into columns, eight by eight in registers.
#pragma once

#include <cstddef>
#include <cstring>

#include "vector_math.h"

namespace focaldet {

#ifdef __has_builtin  // in a line of its own: a compiler without it cannot read its arguments
#if __has_builtin(__builtin_shufflevector)
#define FOCALDET_SHUFFLES
#endif
#endif

#ifdef FOCALDET_SHUFFLES

constexpr int kTile = 8;

// to[k * to_step + j] = from[j * from_step + k] for j, k < 8. Rows j and j + 4 are put together as they are loaded, which
// costs no shuffle; shuffles are the bottleneck.
FOCALDET_INLINE void transpose_tile(const float* from, ptrdiff_t from_step, float* to, ptrdiff_t to_step) {
  typedef float Half __attribute__((vector_size(2 * kTile)));
  typedef float Row __attribute__((vector_size(4 * kTile)));
  for (int k = 0; k < kTile; k += 4) {
    Row r[4], pairs[4];
    for (int j = 0; j < 4; ++j) {
      Half upper, lower;
      std::memcpy(&upper, from + j * from_step + k, sizeof(Half));
      std::memcpy(&lower, from + (j + 4) * from_step + k, sizeof(Half));
      r[j] = __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    for (int j = 0; j < 4; j += 2) {
      pairs[j] = __builtin_shufflevector(r[j], r[j + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      pairs[j + 1] = __builtin_shufflevector(r[j], r[j + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int half = 0; half < 2; ++half) {
      const Row even = __builtin_shufflevector(pairs[half], pairs[half + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      const Row odd = __builtin_shufflevector(pairs[half], pairs[half + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      std::memcpy(to + (k + 2 * half) * to_step, &even, sizeof(Row));
      std::memcpy(to + (k + 2 * half + 1) * to_step, &odd, sizeof(Row));
    }
  }
}

#else

constexpr int kTile = 1;

FOCALDET_INLINE void transpose_tile(const float* from, ptrdiff_t, float* to, ptrdiff_t) { *to = *from; }

#endif

// to[k * to_step + j] = from[j * from_step + k] for j < rows and k < columns. Both ends of an axis that is no multiple
// of the tile are covered by tiles that overlap: `to` must not be `from`.
FOCALDET_INLINE void transpose(const float* from, ptrdiff_t from_step, int rows, int columns, float* to,
                               ptrdiff_t to_step) {
  if (rows < kTile || columns < kTile) {
    for (int j = 0; j < rows; ++j)
      for (int k = 0; k < columns; ++k) to[k * to_step + j] = from[j * from_step + k];
    return;
  }
  for (int j = 0; j < rows; j += kTile) {
    j = j + kTile > rows ? rows - kTile : j;
    for (int k = 0; k < columns; k += kTile) {
      k = k + kTile > columns ? columns - kTile : k;
      transpose_tile(from + j * from_step + k, from_step, to + k * to_step + j, to_step);
    }
  }
}

}  // namespace focaldet
