#include "softmax_blocks.h"

#include "transpose.h"

namespace focaldet {
namespace {

// exp(x) for x <= 0 that reaches 0: sums of such floors, divided by themselves, would not be harmless here.
FOCALDET_INLINE float exp_to_zero(float x) {
  const float e = exp_nonpositive(x);
  return x < -87.3f ? 0.f : e;
}

// The k-th logits of all lanes. A row pointer, since with Python's -fwrapv an index k * kLanes + j is not vectorised.
FOCALDET_INLINE float* lanes(float* z, int k) { return z + static_cast<size_t>(k) * kLanes; }

// m, each lane for itself. It may skip a NaN; the sums do not.
FOCALDET_INLINE void maximum(float* z, int num_classes, float* top) {
  for (int j = 0; j < kLanes; ++j) top[j] = z[j];
  for (int k = 1; k < num_classes; ++k) {
    const float* row = lanes(z, k);
    for (int j = 0; j < kLanes; ++j) top[j] = top[j] > row[j] ? top[j] : row[j];
  }
}

template <Power P>
FOCALDET_INLINE void focal_lanes(const SoftmaxSpec& spec, float* z, const int* label, const float* factor,
                                 bool wants_grad, float* loss) {
  const int num_classes = spec.num_classes;
  alignas(64) float top[kLanes], target[kLanes], others[kLanes] = {}, shifted_sum[kLanes] = {};
  maximum(z, num_classes, top);
  for (int j = 0; j < kLanes; ++j) target[j] = z[label[j] * kLanes + j] - top[j];
  if (spec.smoothing != 0.f)
    for (int k = 0; k < num_classes; ++k) {
      const float* row = lanes(z, k);
      for (int j = 0; j < kLanes; ++j) shifted_sum[j] += row[j] - top[j];
    }
  for (int k = 0; k < num_classes; ++k) {
    float* row = lanes(z, k);
    for (int j = 0; j < kLanes; ++j) {
      const float e = exp_to_zero(row[j] - top[j]);
      row[j] = e;
      others[j] += label[j] == k ? 0.f : e;
    }
  }
  alignas(64) float a[kLanes], b[kLanes], inverse[kLanes], miss[kLanes];
  const float gamma = spec.gamma, smoothing = spec.smoothing, share = smoothing / static_cast<float>(num_classes);
#pragma GCC ivdep
  for (int j = 0; j < kLanes; ++j) {
    const float hit = exp_to_zero(target[j]);
    const float sum = hit + others[j];
    inverse[j] = 1.f / sum;
    miss[j] = others[j] * inverse[j];
    // log s; where the label is the maximum, s is 1 + others, and others may be too small to be seen in s.
    const bool leads = (target[j] == 0.f) & (others[j] < 1.f);
    const float log_small = log1p_unit(others[j]), log_large = log_positive(sum);
    const float log_sum = leads ? log_small : log_large;
    const float nll = log_sum - target[j];
    const float smoothed = (1.f - smoothing) * nll + smoothing * log_sum - share * shifted_sum[j];
    const float m = power<P>(miss[j], gamma);
    loss[j] = factor[j] * m * smoothed;
    a[j] = factor[j] * m;
    const float per_miss = a[j] / (miss[j] == 0.f ? 1.f : miss[j]);  // where miss is 0, a is 0 (or γ is)
    b[j] = gamma * per_miss * (hit * inverse[j]) * smoothed;
  }
  if (!wants_grad) return;
  alignas(64) float slope[kLanes], shift[kLanes];
  for (int j = 0; j < kLanes; ++j) slope[j] = (a[j] + b[j]) * inverse[j], shift[j] = a[j] * share;
  for (int k = 0; k < num_classes; ++k) {
    float* row = lanes(z, k);
    for (int j = 0; j < kLanes; ++j) row[j] = row[j] * slope[j] - shift[j];
  }
  for (int j = 0; j < kLanes; ++j)
    z[label[j] * kLanes + j] = a[j] * (smoothing - share) - (a[j] + b[j]) * miss[j];
}

}  // namespace

FOCALDET_CLONES
void rows_to_lanes(const float* rows, int n, int num_classes, float* z) {
  transpose(rows, num_classes, n, num_classes, z, kLanes);
}

FOCALDET_CLONES
void lanes_to_rows(const float* z, int n, int num_classes, float* rows) {
  transpose(z, kLanes, num_classes, n, rows, num_classes);
}

FOCALDET_CLONES
void focal_rows(const SoftmaxSpec& spec, float* z, const int* label, const float* factor, bool wants_grad, float* loss) {
  switch (spec.power) {
    case Power::kZero: focal_lanes<Power::kZero>(spec, z, label, factor, wants_grad, loss); break;
    case Power::kOne: focal_lanes<Power::kOne>(spec, z, label, factor, wants_grad, loss); break;
    case Power::kTwo: focal_lanes<Power::kTwo>(spec, z, label, factor, wants_grad, loss); break;
    case Power::kAny: focal_lanes<Power::kAny>(spec, z, label, factor, wants_grad, loss); break;
  }
}

FOCALDET_CLONES
void distribution_rows(const SoftmaxSpec& spec, float* z, const float* position, const float* factor, bool wants_grad,
                       float* loss) {
  const int num_bins = spec.num_classes;
  alignas(64) float top[kLanes], target[kLanes], sum[kLanes] = {}, slope[kLanes];
  alignas(64) float left_z[kLanes], right_z[kLanes], left_weight[kLanes], right_weight[kLanes];
  int left[kLanes];
  maximum(z, num_bins, top);
  for (int j = 0; j < kLanes; ++j) {
    const int bin = static_cast<int>(position[j]);
    left[j] = bin > num_bins - 2 ? num_bins - 2 : bin;  // the right end belongs to the last interval
    right_weight[j] = position[j] - static_cast<float>(left[j]);
    left_weight[j] = 1.f - right_weight[j];
  }
  for (int j = 0; j < kLanes; ++j) {  // apart from the arithmetic around it, which has vectors
    const float* bin = lanes(z, left[j]) + j;
    left_z[j] = bin[0];
    right_z[j] = bin[kLanes];
  }
  for (int j = 0; j < kLanes; ++j) {
    // A zero weight takes no part, whatever stands in its bin: 0 times infinity would be NaN.
    const float on_left = left_weight[j] * (left_z[j] - top[j]), on_right = right_weight[j] * (right_z[j] - top[j]);
    target[j] = (left_weight[j] == 0.f ? 0.f : on_left) + (right_weight[j] == 0.f ? 0.f : on_right);
  }
  for (int k = 0; k < num_bins; ++k) {
    float* row = lanes(z, k);
    for (int j = 0; j < kLanes; ++j) {
      const float e = exp_to_zero(row[j] - top[j]);
      row[j] = e;
      sum[j] += e;
    }
  }
#pragma GCC ivdep
  for (int j = 0; j < kLanes; ++j) {
    loss[j] = factor[j] * (log_positive(sum[j]) - target[j]);
    slope[j] = factor[j] / sum[j];
    left_weight[j] *= factor[j];
    right_weight[j] *= factor[j];
  }
  if (!wants_grad) return;
  for (int k = 0; k < num_bins; ++k) {
    float* row = lanes(z, k);
    for (int j = 0; j < kLanes; ++j) row[j] *= slope[j];
  }
  for (int j = 0; j < kLanes; ++j) {
    float* bin = lanes(z, left[j]) + j;
    bin[0] -= left_weight[j];
    bin[kLanes] -= right_weight[j];
  }
}

}  // namespace focaldet
