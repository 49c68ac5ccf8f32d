// Batch norm in training, with the ReLU after it, and the derivative of both: two passes over the map each way. torch
// takes three times as long for maps in channels-last order.
//
// A map is (P, C), a row for each pixel. A tile is as many whole rows as make kTile numbers: what belongs to a channel is
// repeated in it, so that loops run over long stretches of memory however few channels there are.
#include <array>
#include <cmath>
#include <utility>

#include "bfloat16.h"
#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int64_t kTile = 512;      // numbers, at least
constexpr int64_t kPiece = 1 << 15; // numbers in a piece of work, at least

struct Layout {
  int64_t pixels, channels, tile, piece, total;  // tile, piece: in numbers

  Layout(int64_t pixels, int64_t channels)
      : pixels(pixels), channels(channels), tile((kTile + channels - 1) / channels * channels),
        piece((kPiece + tile - 1) / tile * tile), total(pixels * channels) {}
  int64_t pieces() const { return (total + piece - 1) / piece; }

  // A number for each channel, repeated.
  std::vector<float> repeated(const std::vector<double>& of_channel) const {
    std::vector<float> result(tile);
    for (int64_t k = 0; k < tile; ++k) result[k] = static_cast<float>(of_channel[k % channels]);
    return result;
  }
};

struct Clamp {  // ReLU is 0 to infinity; no activation is -infinity to infinity
  float low, high;
};

// Sums of x - pivot and of its square. The sum of n numbers is in the n numbers from `sums` on, by place in the tile.
template <class T>
FOCALDET_INLINE void moments(const T* x, int64_t n, int64_t tile, const float* pivot, float* sums) {
  float *const first = sums, *const second = sums + tile;
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float d = to_float(x[k + j]) - pivot[j];
      first[j] += d;
      second[j] += d * d;
    }
  }
}

template <class T>
FOCALDET_INLINE void normalise(const T* x, int64_t n, int64_t tile, const float* factor, const float* shift, Clamp c,
                               T* y) {
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float value = to_float(x[k + j]) * factor[j] + shift[j];
      const float above = value < c.low ? c.low : value;  // false for NaN, which stays
      assign(y[k + j], above > c.high ? c.high : above);
    }
  }
}

// The derivative of the clamp, from its input, which is computed again.
FOCALDET_INLINE float through(float grad, float value, Clamp c) {
  return value <= c.low || value >= c.high ? 0.f : grad;
}

// Sums of the clamp's derivative, and of it times x - mean.
template <class T>
FOCALDET_INLINE void grad_moments(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor,
                                  const float* shift, const float* mean, Clamp c, float* sums) {
  float *const first = sums, *const second = sums + tile;
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float value = to_float(x[k + j]);
      const float g = through(to_float(grad[k + j]), value * factor[j] + shift[j], c);
      first[j] += g;
      second[j] += g * (value - mean[j]);
    }
  }
}

// factor * clamp's derivative + slope * (x - mean) + constant
template <class T>
FOCALDET_INLINE void grad_input(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor,
                                const float* shift, const float* mean, const float* slope, const float* constant,
                                Clamp c, T* to) {
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float value = to_float(x[k + j]);
      const float g = through(to_float(grad[k + j]), value * factor[j] + shift[j], c);
      assign(to[k + j], factor[j] * g + slope[j] * (value - mean[j]) + constant[j]);
    }
  }
}

#define FOCALDET_BATCH_NORM(T)                                                                                       \
  FOCALDET_CLONES                                                                                                    \
  void moments_of(const T* x, int64_t n, int64_t tile, const float* pivot, float* sums) {                            \
    moments(x, n, tile, pivot, sums);                                                                                \
  }                                                                                                                  \
  FOCALDET_CLONES                                                                                                    \
  void normalised(const T* x, int64_t n, int64_t tile, const float* factor, const float* shift, Clamp c, T* y) {     \
    normalise(x, n, tile, factor, shift, c, y);                                                                      \
  }                                                                                                                  \
  FOCALDET_CLONES                                                                                                    \
  void grad_moments_of(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor, const float* shift,  \
                       const float* mean, Clamp c, float* sums) {                                                    \
    grad_moments(grad, x, n, tile, factor, shift, mean, c, sums);                                                    \
  }                                                                                                                  \
  FOCALDET_CLONES                                                                                                    \
  void grad_input_of(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor, const float* shift,    \
                     const float* mean, const float* slope, const float* constant, Clamp c, T* to) {                 \
    grad_input(grad, x, n, tile, factor, shift, mean, slope, constant, c, to);                                       \
  }
FOCALDET_BATCH_NORM(float)
FOCALDET_BATCH_NORM(BFloat16)
#undef FOCALDET_BATCH_NORM

// work(begin, n, piece) for pieces of the map, which do not depend on the number of threads.
template <class Work>
void in_pieces(const Layout& layout, const Work& work) {
  torch::stable::parallel_for(0, layout.pieces(), 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const int64_t begin = k * layout.piece;
      work(begin, std::min(layout.piece, layout.total - begin), k);
    }
  });
}

// Two sums for each channel, added in order. add(begin, n, sums) adds those of a piece to 2 * tile numbers.
template <class Add>
std::array<std::vector<double>, 2> two_sums(const Layout& layout, const Add& add) {
  std::vector<float> of_pieces(layout.pieces() * 2 * layout.tile);
  in_pieces(layout, [&](int64_t begin, int64_t n, int64_t piece) {
    add(begin, n, of_pieces.data() + piece * 2 * layout.tile);
  });
  std::array<std::vector<double>, 2> sums;
  for (int which = 0; which < 2; ++which) {
    sums[which].resize(layout.channels);
    for (int64_t piece = 0; piece < layout.pieces(); ++piece)
      for (int64_t k = 0; k < layout.tile; ++k)
        sums[which][k % layout.channels] += of_pieces[(2 * piece + which) * layout.tile + k];
  }
  return sums;
}

// What the passes need of each channel: y = x * factor + shift before the clamp.
struct Channels {
  std::vector<double> mean, inverse_std, factor, shift;

  Channels(std::vector<double> mean, std::vector<double> inverse_std, const float* weights, const float* biases)
      : mean(std::move(mean)), inverse_std(std::move(inverse_std)) {
    for (size_t c = 0; c < this->mean.size(); ++c) {
      factor.push_back(static_cast<float>(weights[c] * this->inverse_std[c]));
      shift.push_back(biases[c] - this->mean[c] * factor[c]);
    }
  }
};

template <class T>
std::tuple<Tensor, Tensor> forward(const Layout& layout, const Tensor& x, const float* weight, const float* bias,
                                   double eps, Clamp clamp, Tensor& y) {
  const T* from = static_cast<const T*>(x.const_data_ptr());
  std::vector<double> pivot(layout.channels);  // any value near the mean, so that no digits are lost
  for (int64_t c = 0; c < layout.channels; ++c) pivot[c] = to_float(from[c]);
  const std::vector<float> pivots = layout.repeated(pivot);
  const auto [first, second] = two_sums(layout, [&](int64_t begin, int64_t n, float* sums) {
    moments_of(from + begin, n, layout.tile, pivots.data(), sums);
  });
  Tensor mean = empty(x, {layout.channels}, torch::headeronly::ScalarType::Float);
  Tensor variance = empty(x, {layout.channels}, torch::headeronly::ScalarType::Float);
  float *means = static_cast<float*>(mean.mutable_data_ptr()), *vars = static_cast<float*>(variance.mutable_data_ptr());
  std::vector<double> inverse_std(layout.channels), centre(layout.channels);
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double shift = first[c] / layout.pixels;
    means[c] = static_cast<float>(pivot[c] + shift);
    const double var = second[c] / layout.pixels - shift * shift;
    vars[c] = static_cast<float>(var < 0 ? 0 : var);  // false for NaN, which stays
    centre[c] = means[c];
    inverse_std[c] = 1 / std::sqrt(vars[c] + eps);
  }
  const Channels channels(std::move(centre), std::move(inverse_std), weight, bias);
  const std::vector<float> factor = layout.repeated(channels.factor), shift = layout.repeated(channels.shift);
  T* to = static_cast<T*>(y.mutable_data_ptr());
  in_pieces(layout, [&](int64_t begin, int64_t n, int64_t) {
    normalised(from + begin, n, layout.tile, factor.data(), shift.data(), clamp, to + begin);
  });
  return {mean, variance};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> backward(const Layout& layout, const Tensor& grad, const Tensor& x,
                                            const Channels& channels, Clamp clamp) {
  const T *from = static_cast<const T*>(x.const_data_ptr()), *grads = static_cast<const T*>(grad.const_data_ptr());
  const std::vector<float> factor = layout.repeated(channels.factor), shift = layout.repeated(channels.shift),
                           mean = layout.repeated(channels.mean);
  const auto [first, second] = two_sums(layout, [&](int64_t begin, int64_t n, float* sums) {
    grad_moments_of(grads + begin, from + begin, n, layout.tile, factor.data(), shift.data(), mean.data(), clamp, sums);
  });
  Tensor grad_weight = empty(x, {layout.channels}, torch::headeronly::ScalarType::Float);
  Tensor grad_bias = empty(x, {layout.channels}, torch::headeronly::ScalarType::Float);
  float *weights = static_cast<float*>(grad_weight.mutable_data_ptr()),
        *biases = static_cast<float*>(grad_bias.mutable_data_ptr());
  std::vector<double> slope(layout.channels), constant(layout.channels);
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double inverse = channels.inverse_std[c], share = channels.factor[c] / layout.pixels;
    weights[c] = static_cast<float>(second[c] * inverse);
    biases[c] = static_cast<float>(first[c]);
    slope[c] = -share * second[c] * inverse * inverse;
    constant[c] = -share * first[c];
  }
  const std::vector<float> slopes = layout.repeated(slope), constants = layout.repeated(constant);
  Tensor grad_x = torch::stable::empty_like(x);
  T* to = static_cast<T*>(grad_x.mutable_data_ptr());
  in_pieces(layout, [&](int64_t begin, int64_t n, int64_t) {
    grad_input_of(grads + begin, from + begin, n, layout.tile, factor.data(), shift.data(), mean.data(), slopes.data(),
                  constants.data(), clamp, to + begin);
  });
  return {grad_x, grad_weight, grad_bias};
}

using torch::headeronly::ScalarType;

Layout layout_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.is_contiguous() && x.numel() > 0, "x: expected a contiguous map (N, H, W, C)");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16,
                  "x: expected float32 or bfloat16");
  return {x.size(0) * x.size(1) * x.size(2), x.size(3)};
}

const float* of_channels(const Tensor& values, const char* name, const Layout& layout) {
  STD_TORCH_CHECK(values.is_contiguous() && values.scalar_type() == ScalarType::Float &&
                      values.numel() == layout.channels,
                  name, ": expected contiguous float32 (C,)");
  return static_cast<const float*>(values.const_data_ptr());
}

void check_like(const Tensor& map, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(map.is_contiguous() && map.scalar_type() == x.scalar_type() && map.numel() == x.numel(), name,
                  ": expected the shape and the dtype of x");
}

// Mean and biased variance (C,). y receives the output, clamped to [low, high].
std::tuple<Tensor, Tensor> batch_norm(Tensor x, Tensor weight, Tensor bias, double eps, double low, double high,
                                      Tensor y) {
  const Layout layout = layout_of(x);
  check_like(y, "y", x);
  const float *weights = of_channels(weight, "weight", layout), *biases = of_channels(bias, "bias", layout);
  const Clamp clamp{static_cast<float>(low), static_cast<float>(high)};
  return x.scalar_type() == ScalarType::Float ? forward<float>(layout, x, weights, biases, eps, clamp, y)
                                              : forward<BFloat16>(layout, x, weights, biases, eps, clamp, y);
}

// The derivatives of x, in its dtype, and of weight and bias.
std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean,
                                                       Tensor variance, double eps, double low, double high) {
  const Layout layout = layout_of(x);
  check_like(grad, "grad", x);
  const float *means = of_channels(mean, "mean", layout), *vars = of_channels(variance, "variance", layout);
  std::vector<double> centre(layout.channels), inverse_std(layout.channels);
  for (int64_t c = 0; c < layout.channels; ++c) centre[c] = means[c], inverse_std[c] = 1 / std::sqrt(vars[c] + eps);
  const Channels channels(std::move(centre), std::move(inverse_std), of_channels(weight, "weight", layout),
                          of_channels(bias, "bias", layout));
  const Clamp clamp{static_cast<float>(low), static_cast<float>(high)};
  return x.scalar_type() == ScalarType::Float ? backward<float>(layout, grad, x, channels, clamp)
                                              : backward<BFloat16>(layout, grad, x, channels, clamp);
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("batch_norm", TORCH_BOX(&focaldet::batch_norm));
  library.impl("batch_norm_backward", TORCH_BOX(&focaldet::batch_norm_backward));
}
