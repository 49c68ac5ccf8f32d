// Both derivatives of a depthwise convolution (one filter per channel) in one pass over the maps, in float32, for any
// stride. oneDNN has no fast code for them in bfloat16 where the stride is 2 or the filter larger than 3 x 3.
//
// A map is (N, H, W, C), the filter (K * K, C). A block of kLanes channels of an image is one piece of work: it moves
// down the output row by row, with the K rows of the input under the filter and their derivatives in float buffers.
#include <cstring>

#include "bfloat16.h"
#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int kLanes = 16;  // channels at a time: one register of AVX-512, two of AVX2

#ifdef __GNUC__
// Arrays of these stay in registers, arrays of floats do not.
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
#else
struct Lanes {
  float x[kLanes];
  friend Lanes operator*(Lanes a, const Lanes& b) {
    for (int c = 0; c < kLanes; ++c) a.x[c] *= b.x[c];
    return a;
  }
  friend Lanes operator+(Lanes a, const Lanes& b) {
    for (int c = 0; c < kLanes; ++c) a.x[c] += b.x[c];
    return a;
  }
};
#endif

FOCALDET_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof to); }
FOCALDET_INLINE void store(const Lanes& from, float* to) { std::memcpy(to, &from, sizeof from); }

struct Shape {
  int64_t images, height, width, channels, out_height, out_width, stride, padding;
};

// A row of pixels of `lanes` channels, whose neighbours are `channels` apart, into a buffer of kLanes per pixel.
template <class T>
FOCALDET_INLINE void read_row(const T* from, int64_t pixels, int64_t channels, int lanes, float* to) {
  if (lanes == kLanes) {
    for (int64_t x = 0; x < pixels; ++x, from += channels, to += kLanes)
      for (int c = 0; c < kLanes; ++c) to[c] = to_float(from[c]);
  } else {
    for (int64_t x = 0; x < pixels; ++x, from += channels, to += kLanes)
      for (int c = 0; c < kLanes; ++c) to[c] = c < lanes ? to_float(from[c]) : 0.f;
  }
}

template <class T>
FOCALDET_INLINE void write_row(const float* from, int64_t pixels, int64_t channels, int lanes, T* to) {
  if (lanes == kLanes) {
    for (int64_t x = 0; x < pixels; ++x, from += kLanes, to += channels)
      for (int c = 0; c < kLanes; ++c) assign(to[c], from[c]);
  } else {
    for (int64_t x = 0; x < pixels; ++x, from += kLanes, to += channels)
      for (int c = 0; c < lanes; ++c) assign(to[c], from[c]);
  }
}

// One output row: `rows` are the input rows under the filter, `grad_rows` their derivatives, `grad` the output's.
template <int K>
FOCALDET_INLINE void filter_row(const float* const (&rows)[K], float* const (&grad_rows)[K], const float* grad,
                                const float* filter, float* grad_filter, int64_t out_width, int64_t stride) {
  for (int i = 0; i < K; ++i) {  // a row of the filter at a time: its weights and sums stay in registers
    Lanes weights[K], sums[K], g, in, grad_in;
#pragma GCC unroll 7
    for (int j = 0; j < K; ++j) {
      load(filter + (i * K + j) * kLanes, weights[j]);
      load(grad_filter + (i * K + j) * kLanes, sums[j]);
    }
    const float* from = rows[i];
    float* to = grad_rows[i];
    for (int64_t x = 0; x < out_width; ++x, from += stride * kLanes, to += stride * kLanes) {
      load(grad + x * kLanes, g);
#pragma GCC unroll 7
      for (int j = 0; j < K; ++j) {
        load(from + j * kLanes, in);
        load(to + j * kLanes, grad_in);
        sums[j] = sums[j] + in * g;
        store(grad_in + weights[j] * g, to + j * kLanes);
      }
    }
#pragma GCC unroll 7
    for (int j = 0; j < K; ++j) store(sums[j], grad_filter + (i * K + j) * kLanes);
  }
}

// The block of channels of an image. Input row r lies in the buffers at r mod K, with `padding` zeros at its left.
template <int K, class T>
struct Block {
  const Shape& s;
  const T *input, *grad;
  T* grad_input;
  int lanes;
  int64_t row;
  float *inputs, *grads, *out;

  Block(const Shape& s, const T* input, const T* grad, T* grad_input, int lanes, std::vector<float>& buffer)
      : s(s), input(input), grad(grad), grad_input(grad_input), lanes(lanes),
        row((std::max(s.width + s.padding, (s.out_width - 1) * s.stride + K)) * kLanes) {
    buffer.resize(2 * K * row + s.out_width * kLanes);
    inputs = buffer.data(), grads = inputs + K * row, out = grads + K * row;
  }

  FOCALDET_INLINE int64_t at(int64_t r) const { return ((r + K * s.padding) % K) * row; }

  FOCALDET_INLINE void begin(int64_t r) const {
    std::fill_n(inputs + at(r), row, 0.f);
    std::fill_n(grads + at(r), row, 0.f);
    if (r < 0 || r >= s.height) return;
    read_row(input + r * s.width * s.channels, s.width, s.channels, lanes, inputs + at(r) + s.padding * kLanes);
  }

  FOCALDET_INLINE void finish(int64_t r) const {
    if (r < 0 || r >= s.height) return;
    write_row(grads + at(r) + s.padding * kLanes, s.width, s.channels, lanes, grad_input + r * s.width * s.channels);
  }

  FOCALDET_INLINE void backward(const float* filter, float* grad_filter) const {
    int64_t next = -s.padding;  // the first row that was not begun
    for (int64_t y = 0; y < s.out_height; ++y) {
      const int64_t top = y * s.stride - s.padding;
      for (; next < top + K; ++next) {
        finish(next - K);
        begin(next);
      }
      read_row(grad + y * s.out_width * s.channels, s.out_width, s.channels, lanes, out);
      const float* rows[K];
      float* grad_rows[K];
      for (int i = 0; i < K; ++i) rows[i] = inputs + at(top + i), grad_rows[i] = grads + at(top + i);
      filter_row<K>(rows, grad_rows, out, filter, grad_filter, s.out_width, s.stride);
    }
    for (; next < s.height; ++next) {  // below the last filter
      finish(next - K);
      begin(next);
    }
    for (int64_t r = next - K; r < next; ++r) finish(r);
  }
};

// Channels [first, first + lanes) of an image. `filter` and `sums`, the derivative of the filter, are (K * K, C).
template <int K, class T>
FOCALDET_INLINE void backward_block(const Shape& s, const T* input, const T* grad, const float* filter, T* grad_input,
                                    float* sums, int64_t first, std::vector<float>& buffer) {
  const int lanes = static_cast<int>(std::min<int64_t>(kLanes, s.channels - first));
  float own[K * K * kLanes] = {}, own_sums[K * K * kLanes] = {};
  for (int k = 0; k < K * K; ++k)
    for (int c = 0; c < lanes; ++c) own[k * kLanes + c] = filter[k * s.channels + first + c];
  Block<K, T>(s, input + first, grad + first, grad_input + first, lanes, buffer).backward(own, own_sums);
  for (int k = 0; k < K * K; ++k)
    for (int c = 0; c < lanes; ++c) sums[k * s.channels + first + c] = own_sums[k * kLanes + c];
}

template <class T>
using Backward = void(const Shape&, const T*, const T*, const float*, T*, float*, int64_t, std::vector<float>&);

#define FOCALDET_DEPTHWISE(name, K, T)                                                                      \
  FOCALDET_CLONES                                                                                           \
  void name(const Shape& s, const T* input, const T* grad, const float* filter, T* grad_input, float* sums, \
            int64_t first, std::vector<float>& buffer) {                                                    \
    backward_block<K, T>(s, input, grad, filter, grad_input, sums, first, buffer);                          \
  }
FOCALDET_DEPTHWISE(floats_3, 3, float)
FOCALDET_DEPTHWISE(floats_5, 5, float)
FOCALDET_DEPTHWISE(floats_7, 7, float)
FOCALDET_DEPTHWISE(bfloats_3, 3, BFloat16)
FOCALDET_DEPTHWISE(bfloats_5, 5, BFloat16)
FOCALDET_DEPTHWISE(bfloats_7, 7, BFloat16)
#undef FOCALDET_DEPTHWISE

template <class T>
Tensor run(const Shape& s, Backward<T>* block, int64_t taps, const Tensor& input, const Tensor& grad,
           const Tensor& filter, Tensor& grad_input) {
  Tensor grad_filter = empty(filter, {taps, s.channels}, torch::headeronly::ScalarType::Float);
  const T *in = static_cast<const T*>(input.const_data_ptr()), *g = static_cast<const T*>(grad.const_data_ptr());
  const float* weights = static_cast<const float*>(filter.const_data_ptr());
  T* grad_in = static_cast<T*>(grad_input.mutable_data_ptr());
  const int64_t blocks = (s.channels + kLanes - 1) / kLanes, size = taps * s.channels;
  std::vector<float> sums(s.images * size);  // by image: the result does not depend on the number of threads
  torch::stable::parallel_for(0, s.images * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = k / blocks, pixels = image * s.channels * s.height * s.width;
      block(s, in + pixels, g + image * s.channels * s.out_height * s.out_width, weights, grad_in + pixels,
            sums.data() + image * size, k % blocks * kLanes, buffer);
    }
  });
  float* to = static_cast<float*>(grad_filter.mutable_data_ptr());
  for (int64_t j = 0; j < size; ++j) {
    double sum = 0;
    for (int64_t image = 0; image < s.images; ++image) sum += sums[image * size + j];
    to[j] = static_cast<float>(sum);
  }
  return grad_filter;
}

// The derivatives of the input, in its dtype, and of the filter (K * K, C), in float32.
std::tuple<Tensor, Tensor> depthwise_backward(Tensor grad, Tensor input, Tensor filter, int64_t stride,
                                              int64_t padding) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(input.dim() == 4 && grad.dim() == 4 && input.is_contiguous() && grad.is_contiguous(),
                  "input, grad: expected contiguous (N, H, W, C)");
  STD_TORCH_CHECK(filter.dim() == 2 && filter.is_contiguous() && filter.scalar_type() == ScalarType::Float &&
                      filter.size(1) == input.size(3),
                  "filter: expected contiguous float32 (K * K, C)");
  STD_TORCH_CHECK(stride > 0 && padding >= 0, "expected a positive stride and a padding of 0 or more");
  const int64_t taps = filter.size(0), side = taps == 9 ? 3 : taps == 25 ? 5 : 7;
  STD_TORCH_CHECK(taps == side * side, "filter: expected 3 x 3, 5 x 5 or 7 x 7");
  const Shape s{input.size(0), input.size(1), input.size(2), input.size(3),
                grad.size(1),  grad.size(2),  stride,        padding};
  STD_TORCH_CHECK(grad.size(0) == s.images && grad.size(3) == s.channels &&
                      s.out_height == (s.height + 2 * padding - side) / stride + 1 &&
                      s.out_width == (s.width + 2 * padding - side) / stride + 1,
                  "grad: does not fit the input");
  STD_TORCH_CHECK(grad.scalar_type() == input.scalar_type(), "grad: expected the dtype of the input");
  Tensor grad_input = empty_grad(input);
  if (input.scalar_type() == ScalarType::Float) {
    Tensor grad_filter = run<float>(s, side == 3 ? floats_3 : side == 5 ? floats_5 : floats_7, taps, input, grad,
                                    filter, grad_input);
    return {grad_input, grad_filter};
  }
  STD_TORCH_CHECK(input.scalar_type() == ScalarType::BFloat16, "input: expected float32 or bfloat16");
  Tensor grad_filter = run<BFloat16>(s, side == 3 ? bfloats_3 : side == 5 ? bfloats_5 : bfloats_7, taps, input, grad,
                                     filter, grad_input);
  return {grad_input, grad_filter};
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("depthwise_backward", TORCH_BOX(&focaldet::depthwise_backward));
}
