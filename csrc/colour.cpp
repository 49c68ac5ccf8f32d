// Change the colours of a photo of bytes: a matrix and an offset, in one pass from interleaved pixels to planes.
#include <cstdint>

#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int kPixels = 256;  // at a time: floats of three planes in the first-level cache
constexpr int kSampled = 16;  // one of this many pixels enters the mean

// One row. kStep is the distance of two pixels of a plane, 0 if it is known only at run time.
template <int kStep, bool kMirrored>
FOCALDET_INLINE void change(const uint8_t* from, ptrdiff_t plane, ptrdiff_t step, const float* matrix,
                            const float* offset, uint8_t* to, ptrdiff_t to_plane, int count) {
  const ptrdiff_t distance = kStep > 0 ? kStep : step;
  float colour[3][kPixels];
  for (int first = 0; first < count; first += kPixels) {
    const int n = count - first < kPixels ? count - first : kPixels;
    const uint8_t* at = from + first * distance;
    for (int j = 0; j < n; ++j) {
      colour[0][j] = at[j * distance];
      colour[1][j] = at[j * distance + plane];
      colour[2][j] = at[j * distance + 2 * plane];
    }
    for (int c = 0; c < 3; ++c) {
      const float red = matrix[3 * c], green = matrix[3 * c + 1], blue = matrix[3 * c + 2], added = offset[c];
      uint8_t* out = to + c * to_plane + (kMirrored ? count - first - n : first);
#pragma GCC ivdep
      for (int j = 0; j < n; ++j) {
        float value = red * colour[0][j] + green * colour[1][j] + blue * colour[2][j] + added;
        value = value < 0.f ? 0.f : value;
        value = value > 255.f ? 255.f : value;
        out[kMirrored ? n - 1 - j : j] = static_cast<uint8_t>(static_cast<int>(value));
      }
    }
  }
}

template <bool kMirrored>
FOCALDET_INLINE void change_any(const uint8_t* from, ptrdiff_t plane, ptrdiff_t step, const float* matrix,
                                const float* offset, uint8_t* to, ptrdiff_t to_plane, int count) {
  if (step == 1) {
    change<1, kMirrored>(from, plane, step, matrix, offset, to, to_plane, count);
  } else if (step == 3 && plane == 1) {
    change<3, kMirrored>(from, 1, step, matrix, offset, to, to_plane, count);
  } else {
    change<0, kMirrored>(from, plane, step, matrix, offset, to, to_plane, count);
  }
}

FOCALDET_CLONES void change_row(const uint8_t* from, ptrdiff_t plane, ptrdiff_t step, bool mirrored,
                                const float* matrix, const float* offset, uint8_t* to, ptrdiff_t to_plane, int count) {
  if (mirrored) {
    change_any<true>(from, plane, step, matrix, offset, to, to_plane, count);
  } else {
    change_any<false>(from, plane, step, matrix, offset, to, to_plane, count);
  }
}

// image (3, H, W) of bytes, in any order in memory: clamp(matrix · colour + share · mean + 1/2), rounded down, where the
// mean is that of the grey values of every 16th pixel of the result, which can be mirrored. matrix (12,): its nine
// numbers by row, and the three weights of a grey value.
Tensor recolour(Tensor image, Tensor matrix, double share, bool left_right, bool upside_down) {
  STD_TORCH_CHECK(image.dim() == 3 && image.size(0) == 3, "image: expected (3, H, W)");
  STD_TORCH_CHECK(image.scalar_type() == torch::headeronly::ScalarType::Byte, "image: expected uint8");
  const Floats given(matrix, "matrix", 12);
  STD_TORCH_CHECK(given.dtype == Dtype::kFloat, "matrix: expected float32");
  const float* numbers = static_cast<const float*>(given.data);
  const int64_t height = image.size(1), width = image.size(2);
  const ptrdiff_t plane = image.stride(0), row = image.stride(1), step = image.stride(2);
  const uint8_t* pixels = static_cast<const uint8_t*>(image.const_data_ptr());

  int64_t sums[3] = {0, 0, 0}, count = 0;
  for (int64_t y = 0, x = 0; y < height && width > 0; ++y, x -= width) {
    const uint8_t* from = pixels + (upside_down ? height - 1 - y : y) * row;
    for (; x < width; x += kSampled, ++count) {
      for (int c = 0; c < 3; ++c) sums[c] += from[(left_right ? width - 1 - x : x) * step + c * plane];
    }
  }
  float mean = 0.f;
  for (int c = 0; c < 3; ++c) mean += numbers[9 + c] * (static_cast<float>(sums[c]) / static_cast<float>(count));
  const float added = static_cast<float>(share) * mean + 0.5f;
  const float offset[3] = {added, added, added};

  Tensor result = empty(image, {3, height, width}, torch::headeronly::ScalarType::Byte);
  uint8_t* to = static_cast<uint8_t*>(result.mutable_data_ptr());
  for (int64_t y = 0; y < height; ++y) {
    change_row(pixels + (upside_down ? height - 1 - y : y) * row, plane, step, left_right, numbers, offset,
               to + y * width, height * width, static_cast<int>(width));
  }
  return result;
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("recolour", TORCH_BOX(&focaldet::recolour));
}
