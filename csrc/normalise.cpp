// Batch norm and group norm in training, with the ReLU after them, and the derivatives of both: two passes over the map
// each way. torch takes two to three times as long for maps in channels-last order.
//
// A set is what shares statistics: all images for batch norm, one image for group norm. It is (P, C), a row for each
// pixel. Its channels share them in groups, which have one channel for batch norm. A tile is as many whole rows as make
// kTile numbers: what belongs to a channel is repeated in it, so that loops run over long stretches of memory however few
// channels there are.
#include <array>
#include <cmath>
#include <utility>

#include "bfloat16.h"
#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int64_t kTile = 512;       // numbers, at least
constexpr int64_t kPiece = 1 << 15;  // numbers in a piece of work, at least

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

// Adds x - pivot to the first `tile` numbers of `sums`, and its square to the next: one sum for each place in the tile.
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
FOCALDET_INLINE void scale_and_shift(const T* x, int64_t n, int64_t tile, const float* factor, const float* shift,
                                     Clamp c, T* y) {
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

// The derivative before the clamp, whose input is computed again.
FOCALDET_INLINE float through(float grad, float x, float factor, float shift, Clamp c) {
  const float value = x * factor + shift;
  return value <= c.low || value >= c.high ? 0.f : grad;
}

// Likewise, adds the derivative before the clamp, and its product with x - mean.
template <class T>
FOCALDET_INLINE void grad_moments(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor,
                                  const float* shift, const float* mean, Clamp c, float* sums) {
  float *const first = sums, *const second = sums + tile;
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float value = to_float(x[k + j]);
      const float g = through(to_float(grad[k + j]), value, factor[j], shift[j], c);
      first[j] += g;
      second[j] += g * (value - mean[j]);
    }
  }
}

// factor * derivative before the clamp + slope * (x - mean) + constant
template <class T>
FOCALDET_INLINE void grad_input(const T* grad, const T* x, int64_t n, int64_t tile, const float* factor,
                                const float* shift, const float* mean, const float* slope, const float* constant,
                                Clamp c, T* to) {
  for (int64_t k = 0; k < n; k += tile) {
    const int64_t m = n - k < tile ? n - k : tile;
#pragma GCC ivdep
    for (int64_t j = 0; j < m; ++j) {
      const float value = to_float(x[k + j]);
      const float g = through(to_float(grad[k + j]), value, factor[j], shift[j], c);
      assign(to[k + j], factor[j] * g + slope[j] * (value - mean[j]) + constant[j]);
    }
  }
}

#define FOCALDET_NORMALISE(T)                                                                                        \
  FOCALDET_CLONES                                                                                                    \
  void moments_of(const T* x, int64_t n, int64_t tile, const float* pivot, float* sums) {                            \
    moments(x, n, tile, pivot, sums);                                                                                \
  }                                                                                                                  \
  FOCALDET_CLONES                                                                                                    \
  void normalised(const T* x, int64_t n, int64_t tile, const float* factor, const float* shift, Clamp c, T* y) {     \
    scale_and_shift(x, n, tile, factor, shift, c, y);                                                                \
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
FOCALDET_NORMALISE(float)
FOCALDET_NORMALISE(BFloat16)
#undef FOCALDET_NORMALISE

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

// What the passes over a set need of each channel: y = x * factor + shift before the clamp.
struct Channels {
  std::vector<double> mean, inverse_std, factor, shift;

  // Mean and variance are those of the groups.
  Channels(const Layout& layout, int64_t groups, const float* means, const float* variances, double eps,
           const float* weights, const float* biases) {
    for (int64_t c = 0; c < layout.channels; ++c) {
      const int64_t group = c * groups / layout.channels;
      mean.push_back(means[group]);
      inverse_std.push_back(1 / std::sqrt(variances[group] + eps));
      factor.push_back(static_cast<float>(weights[c] * inverse_std[c]));
      shift.push_back(biases[c] - mean[c] * factor[c]);
    }
  }
};

struct Norm {  // what does not depend on the set
  int64_t groups;
  const float *weight, *bias;
  double eps;
  Clamp clamp;
};

template <class T>
void forward(const Layout& layout, const Norm& norm, const T* x, T* y, float* means, float* variances) {
  std::vector<double> pivot(layout.channels);  // any value near the mean, so that no digits are lost
  for (int64_t c = 0; c < layout.channels; ++c) pivot[c] = to_float(x[c]);
  const std::vector<float> pivots = layout.repeated(pivot);
  const auto [first, second] = two_sums(layout, [&](int64_t begin, int64_t n, float* sums) {
    moments_of(x + begin, n, layout.tile, pivots.data(), sums);
  });
  const int64_t size = layout.channels / norm.groups;  // of a group
  for (int64_t group = 0; group < norm.groups; ++group) {
    double mean = 0, var = 0;
    for (int64_t c = group * size; c < (group + 1) * size; ++c) mean += (pivot[c] + first[c] / layout.pixels) / size;
    for (int64_t c = group * size; c < (group + 1) * size; ++c) {
      const double shift = first[c] / layout.pixels, from_mean = pivot[c] + shift - mean;
      var += (second[c] / layout.pixels - shift * shift + from_mean * from_mean) / size;
    }
    means[group] = static_cast<float>(mean);
    variances[group] = static_cast<float>(var < 0 ? 0 : var);  // false for NaN, which stays
  }
  const Channels channels(layout, norm.groups, means, variances, norm.eps, norm.weight, norm.bias);
  const std::vector<float> factor = layout.repeated(channels.factor), shift = layout.repeated(channels.shift);
  in_pieces(layout, [&](int64_t begin, int64_t n, int64_t) {
    normalised(x + begin, n, layout.tile, factor.data(), shift.data(), norm.clamp, y + begin);
  });
}

// grad_weight, grad_bias: the share of the set.
template <class T>
void backward(const Layout& layout, const Norm& norm, const T* grad, const T* x, const float* means,
              const float* variances, T* grad_x, float* grad_weight, float* grad_bias) {
  const Channels channels(layout, norm.groups, means, variances, norm.eps, norm.weight, norm.bias);
  const std::vector<float> factor = layout.repeated(channels.factor), shift = layout.repeated(channels.shift),
                           mean = layout.repeated(channels.mean);
  const auto [first, second] = two_sums(layout, [&](int64_t begin, int64_t n, float* sums) {
    grad_moments_of(grad + begin, x + begin, n, layout.tile, factor.data(), shift.data(), mean.data(), norm.clamp,
                    sums);
  });
  const int64_t size = layout.channels / norm.groups;
  std::vector<double> slope(layout.channels), constant(layout.channels);
  for (int64_t group = 0; group < norm.groups; ++group) {
    double of_grad = 0, of_product = 0;  // sums over the group
    for (int64_t c = group * size; c < (group + 1) * size; ++c) {
      of_grad += norm.weight[c] * first[c];
      of_product += norm.weight[c] * second[c];
    }
    for (int64_t c = group * size; c < (group + 1) * size; ++c) {
      const double inverse = channels.inverse_std[c], share = inverse / (layout.pixels * size);
      grad_weight[c] = static_cast<float>(second[c] * inverse);
      grad_bias[c] = static_cast<float>(first[c]);
      slope[c] = -share * of_product * inverse * inverse;
      constant[c] = -share * of_grad;
    }
  }
  const std::vector<float> slopes = layout.repeated(slope), constants = layout.repeated(constant);
  in_pieces(layout, [&](int64_t begin, int64_t n, int64_t) {
    grad_input_of(grad + begin, x + begin, n, layout.tile, factor.data(), shift.data(), mean.data(), slopes.data(),
                  constants.data(), norm.clamp, grad_x + begin);
  });
}

using torch::headeronly::ScalarType;

const float* floats(const Tensor& values, const char* name, int64_t numel) {
  STD_TORCH_CHECK(values.is_contiguous() && values.scalar_type() == ScalarType::Float && values.numel() == numel, name,
                  ": expected ", numel, " contiguous float32 values");
  return static_cast<const float*>(values.const_data_ptr());
}

// A map (N, H, W, C) as sets that share statistics, and how to normalise them.
struct Sets {
  int64_t count;
  Layout layout;
  Norm norm;

  Sets(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t sets, int64_t groups, double eps, double low,
       double high)
      : count(sets), layout(x.dim() == 4 && sets > 0 ? x.size(0) * x.size(1) * x.size(2) / sets : 0,
                            x.dim() == 4 ? std::max<int64_t>(x.size(3), 1) : 1),
        norm{groups, nullptr, nullptr, eps, {static_cast<float>(low), static_cast<float>(high)}} {
    STD_TORCH_CHECK(x.dim() == 4 && x.is_contiguous() && x.numel() > 0, "x: expected a contiguous map (N, H, W, C)");
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16,
                    "x: expected float32 or bfloat16");
    STD_TORCH_CHECK(sets == 1 || sets == x.size(0), "sets: expected 1 or the number of images");
    STD_TORCH_CHECK(groups > 0 && layout.channels % groups == 0, "groups: expected a divisor of the channels");
    norm.weight = floats(weight, "weight", layout.channels);
    norm.bias = floats(bias, "bias", layout.channels);
  }

  // work(set): with several sets, each is the work of one thread.
  template <class Work>
  void each(const Work& work) const {
    if (count == 1) return work(0);
    torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t set = first; set < last; ++set) work(set);
    });
  }
};

void check_like(const Tensor& map, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(map.is_contiguous() && map.scalar_type() == x.scalar_type() && map.numel() == x.numel(), name,
                  ": expected the shape and the dtype of x");
}

template <class T>
void forward_sets(const Sets& sets, const Tensor& x, Tensor& y, float* means, float* variances) {
  const T* from = static_cast<const T*>(x.const_data_ptr());
  T* to = static_cast<T*>(y.mutable_data_ptr());
  sets.each([&](int64_t set) {
    const int64_t at = set * sets.layout.total, group = set * sets.norm.groups;
    forward(sets.layout, sets.norm, from + at, to + at, means + group, variances + group);
  });
}

template <class T>
void backward_sets(const Sets& sets, const Tensor& grad, const Tensor& x, const float* means, const float* variances,
                   Tensor& grad_x, float* weights, float* biases) {
  const T *grads = static_cast<const T*>(grad.const_data_ptr()), *from = static_cast<const T*>(x.const_data_ptr());
  T* to = static_cast<T*>(grad_x.mutable_data_ptr());
  const int64_t channels = sets.layout.channels;
  std::vector<float> own_weights(sets.count * channels), own_biases(sets.count * channels);
  sets.each([&](int64_t set) {
    const int64_t at = set * sets.layout.total, group = set * sets.norm.groups;
    backward(sets.layout, sets.norm, grads + at, from + at, means + group, variances + group, to + at,
             own_weights.data() + set * channels, own_biases.data() + set * channels);
  });
  for (int64_t c = 0; c < channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t set = 0; set < sets.count; ++set) {
      weight += own_weights[set * channels + c];
      bias += own_biases[set * channels + c];
    }
    weights[c] = static_cast<float>(weight);
    biases[c] = static_cast<float>(bias);
  }
}

// Mean and biased variance (sets, groups). y receives the output, clamped to [low, high].
std::tuple<Tensor, Tensor> normalise(Tensor x, Tensor weight, Tensor bias, int64_t sets, int64_t groups, double eps,
                                     double low, double high, Tensor y) {
  const Sets all(x, weight, bias, sets, groups, eps, low, high);
  check_like(y, "y", x);
  Tensor mean = empty(x, {sets, groups}, ScalarType::Float), variance = empty(x, {sets, groups}, ScalarType::Float);
  float *means = static_cast<float*>(mean.mutable_data_ptr()), *vars = static_cast<float*>(variance.mutable_data_ptr());
  if (x.scalar_type() == ScalarType::Float) {
    forward_sets<float>(all, x, y, means, vars);
  } else {
    forward_sets<BFloat16>(all, x, y, means, vars);
  }
  return {mean, variance};
}

// The derivatives of x, in its dtype, and of weight and bias.
std::tuple<Tensor, Tensor, Tensor> normalise_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean,
                                                      Tensor variance, double eps, double low, double high) {
  STD_TORCH_CHECK(mean.dim() == 2, "mean: expected (sets, groups)");
  const Sets all(x, weight, bias, mean.size(0), mean.size(1), eps, low, high);
  check_like(grad, "grad", x);
  const float *means = floats(mean, "mean", mean.numel()), *vars = floats(variance, "variance", mean.numel());
  Tensor grad_x = torch::stable::empty_like(x), grad_weight = torch::stable::empty_like(weight),
         grad_bias = torch::stable::empty_like(bias);
  float *weights = static_cast<float*>(grad_weight.mutable_data_ptr()),
        *biases = static_cast<float*>(grad_bias.mutable_data_ptr());
  if (x.scalar_type() == ScalarType::Float) {
    backward_sets<float>(all, grad, x, means, vars, grad_x, weights, biases);
  } else {
    backward_sets<BFloat16>(all, grad, x, means, vars, grad_x, weights, biases);
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("normalise", TORCH_BOX(&focaldet::normalise));
  library.impl("normalise_backward", TORCH_BOX(&focaldet::normalise_backward));
}
