#include "softmax_blocks.h"

#include "transpose.h"

namespace focaldet {
namespace {

// exp(x) for x <= 0 that reaches 0: sums of such floors, divided by themselves, would not be harmless here.
FOCALDET_INLINE float exp_to_zero(float x) {
  const float e = exp_nonpositive(x);
  return x < -87.3f ? 0.f : e;
}

constexpr int kSumChunk = 128;

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
                                 const float* grad_factor, bool wants_grad, float* loss) {
  const int num_classes = spec.num_classes;
  alignas(64) float top[kLanes], target[kLanes], others[kLanes] = {}, shifted_sum[kLanes] = {};
  maximum(z, num_classes, top);
  for (int j = 0; j < kLanes; ++j) target[j] = lanes(z, label[j])[j];  // separate from the vectorised arithmetic
  for (int j = 0; j < kLanes; ++j) target[j] -= top[j];
  if (spec.smoothing != 0.f)
    for (int k = 0; k < num_classes; ++k) {
      const float* row = lanes(z, k);
      const float alpha = spec.class_alpha == nullptr ? 1.f : spec.class_alpha[k];
      if (alpha == 0.f) continue;  // whatever its value
      for (int j = 0; j < kLanes; ++j) shifted_sum[j] += alpha * (row[j] - top[j]);
    }
  // The target is c_t = (1 - ε) α_t + ε/K α_t on the label and c_k = ε/K α_k elsewhere; all of it is `whole`.
  alignas(64) float own[kLanes], whole[kLanes];
  const float smoothing = spec.smoothing, share = smoothing / static_cast<float>(num_classes);
  for (int j = 0; j < kLanes; ++j) {
    own[j] = spec.class_alpha == nullptr ? 1.f : spec.class_alpha[label[j]];
    whole[j] = (1.f - smoothing) * own[j] + share * spec.alpha_sum;
  }
  for (int first = 0; first < num_classes; first += kSumChunk) {  // sums of sums: 50,000 terms lose no digits
    const int last = first + kSumChunk < num_classes ? first + kSumChunk : num_classes;
    alignas(64) float part[kLanes] = {};
    for (int k = first; k < last; ++k) {
      float* row = lanes(z, k);
      for (int j = 0; j < kLanes; ++j) {
        const float e = exp_to_zero(row[j] - top[j]);
        row[j] = e;
        part[j] += label[j] == k ? 0.f : e;
      }
    }
    for (int j = 0; j < kLanes; ++j) others[j] += part[j];
  }
  alignas(64) float hit[kLanes], inverse[kLanes], miss[kLanes], log_small[kLanes], log_large[kLanes], smoothed[kLanes];
  alignas(64) float a[kLanes], b[kLanes], per_others[kLanes];
  for (int j = 0; j < kLanes; ++j) hit[j] = lanes(z, label[j])[j];
  // Short loops with both sides of each choice precomputed: with branches the compiler would not vectorise.
  for (int j = 0; j < kLanes; ++j) inverse[j] = 1.f / (hit[j] + others[j]);
  for (int j = 0; j < kLanes; ++j) {  // 1 - p_t, from the smaller of the two: each keeps its digits
    const float from_hit = 1.f - hit[j] * inverse[j], from_others = others[j] * inverse[j];
    miss[j] = hit[j] < others[j] ? from_hit : from_others;
  }
  for (int j = 0; j < kLanes; ++j) log_small[j] = log1p_unit(others[j]);
  for (int j = 0; j < kLanes; ++j) log_large[j] = log_positive(hit[j] + others[j]);
  for (int j = 0; j < kLanes; ++j) {
    // log s; where the label is the maximum, s is 1 + others, and others may be too small to affect s.
    const float log_sum = (target[j] == 0.f) & (others[j] < 1.f) ? log_small[j] : log_large[j];
    smoothed[j] =
        (1.f - smoothing) * own[j] * (log_sum - target[j]) + share * spec.alpha_sum * log_sum - share * shifted_sum[j];
  }
  for (int j = 0; j < kLanes; ++j) a[j] = power<P>(miss[j], spec.gamma);
  for (int j = 0; j < kLanes; ++j) b[j] = factor[j] * a[j] * smoothed[j];
  for (int j = 0; j < kLanes; ++j) loss[j] = factor[j] == 0.f ? 0.f : b[j];
  for (int j = 0; j < kLanes; ++j) a[j] *= grad_factor[j];
  for (int j = 0; j < kLanes; ++j) {
    const float slope = P == Power::kZero ? 0.f : spec.gamma * a[j] * (hit[j] * inverse[j]) * smoothed[j];
    b[j] = others[j] == 0.f ? 0.f : slope;
  }
  for (int j = 0; j < kLanes; ++j) per_others[j] = 1.f / (others[j] == 0.f ? 1.f : others[j]);
  if (!wants_grad) return;
  alignas(64) float slope[kLanes], shift[kLanes];
  for (int j = 0; j < kLanes; ++j) slope[j] = a[j] * whole[j] * inverse[j], shift[j] = a[j] * share;
  for (int k = 0; k < num_classes; ++k) {
    float* row = lanes(z, k);
    if constexpr (P == Power::kZero) {
      for (int j = 0; j < kLanes; ++j) row[j] *= slope[j];
    } else {
      for (int j = 0; j < kLanes; ++j) row[j] = row[j] * slope[j] + (row[j] * per_others[j]) * b[j];
    }
    if (smoothing == 0.f) continue;
    const float alpha = spec.class_alpha == nullptr ? 1.f : spec.class_alpha[k];
    for (int j = 0; j < kLanes; ++j) row[j] -= alpha * shift[j];
  }
  for (int j = 0; j < kLanes; ++j) hit[j] = a[j] * share * (spec.alpha_sum - own[j]) - a[j] * whole[j] * miss[j] - b[j];
  for (int j = 0; j < kLanes; ++j) lanes(z, label[j])[j] = hit[j];
}

}  // namespace

FOCALDET_CLONES
void label_lanes(const int64_t* labels, int n, int64_t ignore_index, int* label, float* share) {
  for (int j = 0; j < n; ++j) {
    const bool ignored = labels[j] == ignore_index;
    label[j] = ignored ? 0 : static_cast<int>(labels[j]);
    share[j] = ignored ? 0.f : 1.f;
  }
}

FOCALDET_CLONES
void rows_to_lanes(const float* rows, int n, int num_classes, float* z) {
  transpose(rows, num_classes, n, num_classes, z, kLanes);
}

FOCALDET_CLONES
void lanes_to_rows(const float* z, int n, int num_classes, float* rows) {
  transpose(z, kLanes, num_classes, n, rows, num_classes);
}

FOCALDET_CLONES
void focal_rows(const SoftmaxSpec& spec, float* z, const int* label, const float* factor, const float* grad_factor,
                bool wants_grad, float* loss) {
  switch (spec.power) {
    case Power::kZero: focal_lanes<Power::kZero>(spec, z, label, factor, grad_factor, wants_grad, loss); break;
    case Power::kOne: focal_lanes<Power::kOne>(spec, z, label, factor, grad_factor, wants_grad, loss); break;
    case Power::kTwo: focal_lanes<Power::kTwo>(spec, z, label, factor, grad_factor, wants_grad, loss); break;
    case Power::kAny: focal_lanes<Power::kAny>(spec, z, label, factor, grad_factor, wants_grad, loss); break;
  }
}

FOCALDET_CLONES
void distribution_rows(const SoftmaxSpec& spec, float* z, const float* position, const float* factor,
                       const float* grad_factor, bool wants_grad, float* loss) {
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
  for (int j = 0; j < kLanes; ++j) {  // separate from the vectorised arithmetic around it
    const float* bin = lanes(z, left[j]) + j;
    left_z[j] = bin[0];
    right_z[j] = bin[kLanes];
  }
  for (int j = 0; j < kLanes; ++j) {
    // A zero weight is left out, whatever is in its bin: 0 times infinity would be NaN.
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
    loss[j] = factor[j] == 0.f ? 0.f : factor[j] * (log_positive(sum[j]) - target[j]);
    slope[j] = grad_factor[j] / sum[j];
    left_weight[j] *= grad_factor[j];
    right_weight[j] *= grad_factor[j];
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

FOCALDET_CLONES
void distillation_rows(const SoftmaxSpec& spec, float* z, float* teacher, float* ratio, const float* factor,
                       const float* grad_factor, float* loss) {
  const int num_classes = spec.num_classes;
  const float temperature = spec.temperature, inverse = 1.f / temperature;
  alignas(64) float top[kLanes], taught_top[kLanes], sum[kLanes] = {}, taught_sum[kLanes] = {}, total[kLanes] = {};
  maximum(z, num_classes, top);
  maximum(teacher, num_classes, taught_top);
  for (int first = 0; first < num_classes; first += kSumChunk) {  // sums of sums, as above
    const int last = first + kSumChunk < num_classes ? first + kSumChunk : num_classes;
    alignas(64) float part[kLanes] = {}, taught_part[kLanes] = {};
    for (int k = first; k < last; ++k) {
      float *row = lanes(z, k), *taught = lanes(teacher, k), *log_ratio = lanes(ratio, k);
      for (int j = 0; j < kLanes; ++j) {
        const float x = row[j] - top[j], y = taught[j] - taught_top[j];
        row[j] = exp_to_zero(x * inverse);
        taught[j] = exp_to_zero(y * inverse);
        log_ratio[j] = (x - y) * inverse;
        part[j] += row[j];
        taught_part[j] += taught[j];
      }
    }
    for (int j = 0; j < kLanes; ++j) sum[j] += part[j], taught_sum[j] += taught_part[j];
  }
  alignas(64) float shift[kLanes], share[kLanes], taught_share[kLanes], slope[kLanes];
#pragma GCC ivdep
  for (int j = 0; j < kLanes; ++j) {
    shift[j] = log_positive(taught_sum[j] / sum[j]);
    share[j] = 1.f / sum[j];
    taught_share[j] = 1.f / taught_sum[j];
    slope[j] = grad_factor[j] * temperature;
  }
  for (int first = 0; first < num_classes; first += kSumChunk) {
    const int last = first + kSumChunk < num_classes ? first + kSumChunk : num_classes;
    alignas(64) float part[kLanes] = {};
    for (int k = first; k < last; ++k) {
      float* row = lanes(z, k);
      const float *taught = lanes(teacher, k), *log_ratio = lanes(ratio, k);
      for (int j = 0; j < kLanes; ++j) {
        const float p = row[j] * share[j], q = taught[j] * taught_share[j], r = log_ratio[j] + shift[j];
        const float by_series = q * exp_excess(r), weighted = q * r;
        const float directly = (p - q) - (q == 0.f ? 0.f : weighted);  // and not 0 times infinity
        part[j] += std::fabs(r) < 1.f ? by_series : directly;
        row[j] = (p - q) * slope[j];
      }
    }
    for (int j = 0; j < kLanes; ++j) total[j] += part[j];
  }
  for (int j = 0; j < kLanes; ++j) loss[j] = factor[j] == 0.f ? 0.f : factor[j] * temperature * temperature * total[j];
}

}  // namespace focaldet
