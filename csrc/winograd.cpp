// The three transforms of Winograd's minimal filtering F(4 x 4, 3 x 3), between maps and tiles (Lavin & Gray,
// arXiv 1509.09308, section 4): a 3 x 3 convolution becomes 36 products of matrices, with a quarter of the
// multiplications. torch.bmm computes the products; this file has the memory traffic and additions.
//
// The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity: their powers stay nearer to 1 than those of the usual 0, +-1,
// +-2, and less is lost in float32.
//
// A map is (N, H, W, C), a tile one of its 4 x 4 blocks, counted by row through all images; blocks beyond the edge have
// zeros there. Tiles are (36, T, C): a matrix for each product.
#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int kLanes = 32;  // channels at a time: two registers of AVX-512, four of AVX2
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;  // the points; their squares are 1/2 and 2

struct Shape {
  int64_t images, height, width, channels, rows, columns;

  explicit Shape(const Tensor& map)
      : images(map.size(0)), height(map.size(1)), width(map.size(2)), channels(map.size(3)),
        rows((height + 3) / 4), columns((width + 3) / 4) {}
  int64_t tiles() const { return images * rows * columns; }
};

struct Place {  // of a tile: its image, and the pixel at its top left
  int64_t image, y, x;

  Place(const Shape& s, int64_t tile)
      : image(tile / (s.rows * s.columns)), y(tile / s.columns % s.rows * 4), x(tile % s.columns * 4) {}
};

// A transform along one of the two axes: kFrom numbers in, kTo out, for many channels side by side.
struct ToProducts {  // pixels of a tile and of its border, to factors: B^T
  static constexpr int kFrom = 6, kTo = 6;
  static constexpr bool kBias = false;
  FOCALDET_INLINE static void apply(const float (&d)[6], float (&v)[6]) {
    const float even_a = d[4] - 2.f * d[2], odd_a = kA * (d[3] - 2.f * d[1]);
    const float even_b = d[4] - 0.5f * d[2], odd_b = kB * (d[3] - 0.5f * d[1]);
    v[0] = d[0] - 2.5f * d[2] + d[4];
    v[1] = even_a + odd_a, v[2] = even_a - odd_a;
    v[3] = even_b + odd_b, v[4] = even_b - odd_b;
    v[5] = d[1] - 2.5f * d[3] + d[5];
  }
};

struct FromProducts {  // sums of products, to pixels of a tile: A^T
  static constexpr int kFrom = 6, kTo = 4;
  static constexpr bool kBias = true;
  FOCALDET_INLINE static void apply(const float (&m)[6], float (&y)[4]) {
    const float sum_a = m[1] + m[2], difference_a = kA * (m[1] - m[2]);
    const float sum_b = m[3] + m[4], difference_b = kB * (m[3] - m[4]);
    y[0] = m[0] + sum_a + sum_b;
    y[1] = difference_a + difference_b;
    y[2] = 0.5f * sum_a + 2.f * sum_b;
    y[3] = 0.5f * difference_a + 2.f * difference_b + m[5];
  }
};

struct GradientToProducts {  // the derivative of pixels, to that of sums of products: A
  static constexpr int kFrom = 4, kTo = 6;
  static constexpr bool kBias = false;
  FOCALDET_INLINE static void apply(const float (&y)[4], float (&m)[6]) {
    const float even_a = y[0] + 0.5f * y[2], odd_a = kA * (y[1] + 0.5f * y[3]);
    const float even_b = y[0] + 2.f * y[2], odd_b = kB * (y[1] + 2.f * y[3]);
    m[0] = y[0];
    m[1] = even_a + odd_a, m[2] = even_a - odd_a;
    m[3] = even_b + odd_b, m[4] = even_b - odd_b;
    m[5] = y[3];
  }
};

// Both axes, for `lanes` channels: from[i][j], to[i][j] and `bias` point to them. kKnown is `lanes`, unless it is 0.
template <class T, int kKnown>
FOCALDET_INLINE void both_axes(const float* (&from)[T::kFrom][T::kFrom], float* (&to)[T::kTo][T::kTo],
                               const float* bias, int lanes) {
  const int n = kKnown > 0 ? kKnown : lanes;
  float half[T::kTo][T::kFrom][kLanes];
  for (int j = 0; j < T::kFrom; ++j) {
    const float* column[T::kFrom];
    for (int i = 0; i < T::kFrom; ++i) column[i] = from[i][j];
#pragma GCC ivdep
    for (int c = 0; c < n; ++c) {
      float in[T::kFrom], out[T::kTo];
#pragma GCC unroll 6
      for (int i = 0; i < T::kFrom; ++i) in[i] = column[i][c];
      T::apply(in, out);
#pragma GCC unroll 6
      for (int i = 0; i < T::kTo; ++i) half[i][j][c] = out[i];
    }
  }
  for (int i = 0; i < T::kTo; ++i) {
    float* row[T::kTo];
    for (int j = 0; j < T::kTo; ++j) row[j] = to[i][j];
#pragma GCC ivdep
    for (int c = 0; c < n; ++c) {
      float in[T::kFrom], out[T::kTo];
#pragma GCC unroll 6
      for (int j = 0; j < T::kFrom; ++j) in[j] = half[i][j][c];
      T::apply(in, out);
#pragma GCC unroll 6
      for (int j = 0; j < T::kTo; ++j) row[j][c] = T::kBias ? out[j] + bias[c] : out[j];
    }
  }
}

template <class T>
FOCALDET_INLINE void transform(const float* (&from)[T::kFrom][T::kFrom], float* (&to)[T::kTo][T::kTo],
                               const float* bias, int64_t lanes) {
  if (lanes >= kLanes) {
    both_axes<T, kLanes>(from, to, bias, kLanes);  // loops of a known length
  } else {
    both_axes<T, 0>(from, to, bias, static_cast<int>(lanes));
  }
}

// Tiles [first, last) of a map; `tiles` points to the first one of the first product, whose `product` floats the second
// one follows. kBorder: reading begins one pixel above and left of the tile.
template <class T, int kBorder>
FOCALDET_INLINE void map_to_tiles(const Shape& s, const float* map, float* tiles, int64_t product, int64_t first,
                                  int64_t last) {
  static constexpr float zeros[kLanes] = {};
  for (int64_t t = first; t < last; ++t) {
    const Place p(s, t);
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      const float* from[T::kFrom][T::kFrom];
      float* to[6][6];
      for (int i = 0; i < T::kFrom; ++i) {
        for (int j = 0; j < T::kFrom; ++j) {
          const int64_t y = p.y + i - kBorder, x = p.x + j - kBorder;
          const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
          from[i][j] = inside ? map + ((p.image * s.height + y) * s.width + x) * s.channels + c : zeros;
        }
      }
      for (int k = 0; k < 36; ++k) to[k / 6][k % 6] = tiles + k * product + (t - first) * s.channels + c;
      transform<T>(from, to, nullptr, s.channels - c);
    }
  }
}

FOCALDET_CLONES
void pixels_to_tiles(const Shape& s, const float* map, float* tiles, int64_t product, int64_t first, int64_t last) {
  map_to_tiles<ToProducts, 1>(s, map, tiles, product, first, last);
}

FOCALDET_CLONES
void gradient_to_tiles(const Shape& s, const float* map, float* tiles, int64_t product, int64_t first, int64_t last) {
  map_to_tiles<GradientToProducts, 0>(s, map, tiles, product, first, last);
}

FOCALDET_CLONES
void tiles_to_pixels(const Shape& s, const float* tiles, const float* bias, float* map, int64_t product, int64_t first,
                     int64_t last) {
  float outside[kLanes];
  for (int64_t t = first; t < last; ++t) {
    const Place p(s, t);
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      const float* from[6][6];
      float* to[4][4];
      for (int k = 0; k < 36; ++k) from[k / 6][k % 6] = tiles + k * product + (t - first) * s.channels + c;
      for (int k = 0; k < 16; ++k) {
        const int64_t y = p.y + k / 4, x = p.x + k % 4;
        const bool inside = y < s.height && x < s.width;
        to[k / 4][k % 4] = inside ? map + ((p.image * s.height + y) * s.width + x) * s.channels + c : outside;
      }
      transform<FromProducts>(from, to, bias + c, s.channels - c);
    }
  }
}

// The largest absolute value, by its bits, which sort alike: NaN above infinity above all numbers.
FOCALDET_CLONES
uint32_t largest_bits(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t size = std::bit_cast<uint32_t>(x[k]) & 0x7fffffffu;
    largest = size > largest ? size : largest;
  }
  return largest;
}

// The largest absolute value in a tensor; NaN if it contains one.
double largest(Tensor x) {
  STD_TORCH_CHECK(x.is_contiguous() && x.scalar_type() == torch::headeronly::ScalarType::Float,
                  "expected contiguous float32");
  constexpr int64_t kStretch = 1 << 16;
  const float* from = static_cast<const float*>(x.const_data_ptr());
  const int64_t total = x.numel();
  std::vector<uint32_t> partial((total + kStretch - 1) / kStretch, 0);
  torch::stable::parallel_for(0, partial.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      partial[k] = largest_bits(from + k * kStretch, std::min(kStretch, total - k * kStretch));
  });
  return std::bit_cast<float>(partial.empty() ? 0u : *std::max_element(partial.begin(), partial.end()));
}

void check(const Tensor& map, const Tensor& tiles, int64_t first, int64_t count, int64_t at) {
  constexpr auto kFloat = torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(map.dim() == 4 && map.is_contiguous() && map.scalar_type() == kFloat,
                  "map: expected contiguous float32 (N, H, W, C)");
  STD_TORCH_CHECK(tiles.dim() == 3 && tiles.is_contiguous() && tiles.scalar_type() == kFloat && tiles.size(0) == 36 &&
                      tiles.size(2) == map.size(3),
                  "tiles: expected contiguous float32 (36, T, C)");
  STD_TORCH_CHECK(first >= 0 && count >= 0 && first + count <= Shape(map).tiles(), "no such tiles in the map");
  STD_TORCH_CHECK(at >= 0 && at + count <= tiles.size(1), "no place for so many tiles");
}

// work(offset, first, last): tiles [first, last) of the map, `offset` floats from the first tile.
template <class Work>
void in_parallel(const Tensor& tiles, int64_t first, int64_t count, int64_t at, const Work& work) {
  torch::stable::parallel_for(first, first + count, 4, [&](int64_t begin, int64_t end) {
    work((at + begin - first) * tiles.size(2), begin, end);
  });
}

// Tiles [first, first + count) of a map, written from position `at` on.
template <auto kTransform>
void read_tiles(Tensor map, Tensor tiles, int64_t first, int64_t count, int64_t at) {
  check(map, tiles, first, count, at);
  const Shape shape(map);
  const float* from = static_cast<const float*>(map.const_data_ptr());
  float* to = static_cast<float*>(tiles.mutable_data_ptr());
  const int64_t product = tiles.size(1) * tiles.size(2);
  in_parallel(tiles, first, count, at, [&](int64_t offset, int64_t begin, int64_t end) {
    kTransform(shape, from, to + offset, product, begin, end);
  });
}

// And back, with a bias for each channel.
void write_tiles(Tensor tiles, MaybeTensor bias, Tensor map, int64_t first, int64_t count, int64_t at) {
  check(map, tiles, first, count, at);
  const Shape shape(map);
  const Floats given(bias, "bias", shape.channels);
  STD_TORCH_CHECK(given.dtype == Dtype::kFloat, "bias: expected float32");
  const std::vector<float> zeros(given ? 0 : shape.channels);
  const float* added = given ? static_cast<const float*>(given.data) : zeros.data();
  const float* from = static_cast<const float*>(tiles.const_data_ptr());
  float* to = static_cast<float*>(map.mutable_data_ptr());
  const int64_t product = tiles.size(1) * tiles.size(2);
  in_parallel(tiles, first, count, at, [&](int64_t offset, int64_t begin, int64_t end) {
    tiles_to_pixels(shape, from + offset, added, to, product, begin, end);
  });
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("largest", TORCH_BOX(&focaldet::largest));
  library.impl("pixels_to_tiles", TORCH_BOX(&focaldet::read_tiles<focaldet::pixels_to_tiles>));
  library.impl("gradient_to_tiles", TORCH_BOX(&focaldet::read_tiles<focaldet::gradient_to_tiles>));
  library.impl("tiles_to_pixels", TORCH_BOX(&focaldet::write_tiles));
}
