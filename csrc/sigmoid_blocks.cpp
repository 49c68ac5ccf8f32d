#include "sigmoid_blocks.h"

namespace focaldet {
namespace {

// `grad` may be `z`: each element is read before its place is written, and no other is touched. ivdep says so.
template <Power P, bool kConstantFactor, bool kGrad>
FOCALDET_INLINE void negatives(const SigmoidSpec& s, const float* z, int n, float factor, float* loss, float* grad) {
  const float gamma = s.gamma, scale = s.negative_scale, grad_scale = s.negative_scale * factor;
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    float value, slope;
    negative<P, kConstantFactor>(z[j], gamma, value, slope);
    loss[j] = scale * value;
    if constexpr (kGrad) grad[j] = grad_scale * slope;
  }
}

template <Power P>
FOCALDET_INLINE void negatives_of(const SigmoidSpec& s, const float* z, int n, float factor, float* loss, float* grad) {
  if (grad == nullptr) {
    negatives<P, false, false>(s, z, n, factor, loss, grad);
  } else if (s.kind == Kind::kMatchabilityAware) {
    negatives<P, true, true>(s, z, n, factor, loss, grad);
  } else {
    negatives<P, false, true>(s, z, n, factor, loss, grad);
  }
}

template <Kind K, Power P>
FOCALDET_INLINE void targets_of(const SigmoidSpec& s, const float* z, const float* y, int n, float factor, float* loss,
                                float* grad) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    float value, slope;
    formula<K, P>(z[j], y[j], s.gamma, s.alpha, value, slope);
    if constexpr (K == Kind::kFocal) {
      const float weight = s.weight0 + s.weight1 * y[j];
      value *= weight;
      slope *= weight;
    }
    loss[j] = value;
    grad[j] = factor * slope;
  }
}

// From a kind and an exponent known at run time to CALL(kind, power).
#define FOCALDET_DISPATCH_POWER(K, CALL)              \
  switch (spec.power) {                               \
    case Power::kZero: CALL(K, Power::kZero); break;  \
    case Power::kOne: CALL(K, Power::kOne); break;    \
    case Power::kTwo: CALL(K, Power::kTwo); break;    \
    case Power::kAny: CALL(K, Power::kAny); break;    \
  }
#define FOCALDET_DISPATCH(CALL)                                                                       \
  switch (spec.kind) {                                                                                \
    case Kind::kBinaryCrossEntropy: CALL(Kind::kBinaryCrossEntropy, Power::kZero); break;             \
    case Kind::kFocal: FOCALDET_DISPATCH_POWER(Kind::kFocal, CALL) break;                             \
    case Kind::kQualityFocal: FOCALDET_DISPATCH_POWER(Kind::kQualityFocal, CALL) break;               \
    case Kind::kVarifocal: FOCALDET_DISPATCH_POWER(Kind::kVarifocal, CALL) break;                     \
    case Kind::kMatchabilityAware: FOCALDET_DISPATCH_POWER(Kind::kMatchabilityAware, CALL) break;     \
    case Kind::kIoUAware: FOCALDET_DISPATCH_POWER(Kind::kIoUAware, CALL) break;                       \
  }

}  // namespace

FOCALDET_CLONES
void negative_block(const SigmoidSpec& spec, const float* z, int n, float factor, float* loss, float* grad) {
  switch (spec.power) {
    case Power::kZero: negatives_of<Power::kZero>(spec, z, n, factor, loss, grad); break;
    case Power::kOne: negatives_of<Power::kOne>(spec, z, n, factor, loss, grad); break;
    case Power::kTwo: negatives_of<Power::kTwo>(spec, z, n, factor, loss, grad); break;
    case Power::kAny: negatives_of<Power::kAny>(spec, z, n, factor, loss, grad); break;
  }
}

FOCALDET_CLONES
void negative_block_by_class(const SigmoidSpec& spec, const float* z, const float* gamma, const float* weight, int n,
                             float* loss, float* grad) {
  const float scale = spec.negative_scale;
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    float value, slope;
    negative<Power::kAny, false>(z[j], gamma[j], value, slope);
    const float share = scale * weight[j];
    loss[j] = share * value;
    grad[j] = share * slope;
  }
}

FOCALDET_CLONES
void target_block(const SigmoidSpec& spec, const float* z, const float* y, int n, float factor, float* loss,
                  float* grad) {
#define FOCALDET_CALL(K, P) targets_of<K, P>(spec, z, y, n, factor, loss, grad)
  FOCALDET_DISPATCH(FOCALDET_CALL)
#undef FOCALDET_CALL
}

void positive(const SigmoidSpec& spec, double z, double y, double& loss, double& grad) {
#define FOCALDET_CALL(K, P) formula<K, P>(z, y, double(spec.gamma), double(spec.alpha), loss, grad)
  FOCALDET_DISPATCH(FOCALDET_CALL)
#undef FOCALDET_CALL
  if (spec.kind == Kind::kFocal) {
    const double weight = spec.weight0 + spec.weight1 * y;
    loss *= weight;
    grad *= weight;
  }
}

FOCALDET_CLONES void multiply_block(float* x, const float* factor, int n) {
  for (int j = 0; j < n; ++j) x[j] = factor[j] == 0.f ? 0.f : x[j] * factor[j];
}

FOCALDET_CLONES void multiply_block(float* x, float factor, int n) {
  for (int j = 0; j < n; ++j) x[j] *= factor;
}

FOCALDET_CLONES void add_block(float* sum, const float* x, int n) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) sum[j] += x[j];
}

FOCALDET_CLONES double sum_block(const float* x, int n) { return sum_lanes(x, n); }

FOCALDET_CLONES bool all_background(const int64_t* labels, int n) {
  int64_t others = 0;
  for (int j = 0; j < n; ++j) others |= ~labels[j];  // ~(-1) = 0
  return others == 0;
}

}  // namespace focaldet
