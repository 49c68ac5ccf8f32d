// The sigmoid losses: value and derivative on the logit z, target y in [0, 1].
//
//   p = σ(z), q = 1 - p, BCE = -(y log p + (1 - y) log q), dBCE/dz = p - y, dp/dz = p q
//
//   binary cross entropy   BCE
//   focal                  t^γ BCE,       t = y q + (1 - y) p  (the probability of the untruth)
//                          d/dz = t^γ (p - y) + γ t^γ (p q / t) (1 - 2y) BCE
//   quality focal          |d|^γ BCE,     d = p - y
//                          d/dz = |d|^γ d + γ |d|^(γ-1) sgn(d) p q BCE
//   varifocal              y BCE where y > 0, else α p^γ BCE
//   matchability-aware     BCE(z, y^γ) where y > 0, else α p^γ BCE with p^γ a constant
//   IoU-aware BCE          BCE(z, max(p^α y^(1-α), .01)) where y > 0, the target a constant, else p^γ BCE
//
// A negative (y = 0) is the same in all of them, up to a factor: p^γ softplus(z), whose derivative is
//   p^γ (p + γ q softplus(z)),   or p^γ p where p^γ is a constant.
#pragma once

#include "vector_math.h"

namespace focaldet {

enum class Kind { kBinaryCrossEntropy, kFocal, kQualityFocal, kVarifocal, kMatchabilityAware, kIouAwareBce };

template <class T>
struct Sigmoid {
  T p, q;       // σ(z), 1 - σ(z), each with all its digits
  T log1p_exp;  // log(1 + exp(-|z|))
};

// NaN gives numbers: the formulas put it back.
template <class T>
FOCALDET_INLINE Sigmoid<T> sigmoid(T z) {
  const T u = exp_bounded(minus_size(z));
  const T large = T(1) / (T(1) + u);
  const T small = u * large;
  const bool negative = z < T(0);
  return {negative ? small : large, negative ? large : small, log1p_unit(u)};
}

template <class T>
FOCALDET_INLINE T binary_cross_entropy(T z, T y, T log1p_exp) {
  // Both terms are >= 0: nothing cancels. An infinite logit that is right has no loss.
  const T wrong = z < T(0) ? -y : T(1) - y;
  return (wrong == T(0) ? T(0) : wrong * z) + log1p_exp;
}

// Where p q = 0: larger values only come from a huge or infinite logit, whose p q is not quite 0 in float.
template <class T>
FOCALDET_INLINE T bounded(T loss) {
  return loss > T(128) ? T(128) : loss;
}

template <Power P, bool kConstantFactor, class T>
FOCALDET_INLINE void negative(T z, T gamma, T& loss, T& grad) {
  const Sigmoid<T> s = sigmoid(z);
  const T softplus = (z < T(0) ? T(0) : z) + s.log1p_exp;  // of NaN the first NaN
  T factor = power<P>(s.p, gamma);
  // log σ(z) needs no log of a rounded p, and no underflow.
  if constexpr (P == Power::kAny) factor = exp_nonpositive(gamma * ((z < T(0) ? z : T(0)) - s.log1p_exp));
  loss = factor * softplus;
  grad = factor * (kConstantFactor ? (z != z ? z : s.p) : s.p + gamma * (s.q * bounded(softplus)));
}

template <Kind K, Power P, class T>
FOCALDET_INLINE void formula(T z, T y, T gamma, T alpha, T& loss, T& grad) {
  const Sigmoid<T> s = sigmoid(z);
  if constexpr (K == Kind::kBinaryCrossEntropy) {
    loss = binary_cross_entropy(z, y, s.log1p_exp);
    grad = z < T(0) ? s.p - y : (T(1) - y) - s.q;
  } else if constexpr (K == Kind::kFocal) {
    const T bce = binary_cross_entropy(z, y, s.log1p_exp);
    const T t = y * s.q + (T(1) - y) * s.p;
    const T factor = power<P>(t, gamma);
    const T d = z < T(0) ? s.p - y : (T(1) - y) - s.q;
    loss = factor * bce;
    grad = factor * d;
    if constexpr (P != Power::kZero) {
      // t^γ p q / t, where p q / t <= 1; where t is 0, factor is 0 too.
      T share = s.p * s.q;
      if constexpr (P == Power::kTwo) share *= t;
      if constexpr (P == Power::kAny) share = factor * (share / (t == T(0) ? T(1) : t));
      grad += gamma * share * ((T(1) - T(2) * y) * bounded(bce));
    }
  } else if constexpr (K == Kind::kQualityFocal) {
    const T bce = binary_cross_entropy(z, y, s.log1p_exp);
    const T d = z < T(0) ? s.p - y : (T(1) - y) - s.q;
    const T distance = d < T(0) ? -d : d;
    const T factor = power<P>(distance, gamma);
    loss = factor * bce;
    grad = factor * d;
    if constexpr (P != Power::kZero) {
      // |d|^(γ-1) sgn(d) = |d|^γ / d, taken as 0 at d = 0. For a saturated logit p q / d is 1, and |d|^γ / d infinite.
      T share = s.p * s.q;
      if constexpr (P == Power::kOne) share = d == T(0) ? T(0) : d < T(0) ? -share : share;
      if constexpr (P == Power::kTwo) share *= d;
      if constexpr (P == Power::kAny) share = factor * (d == T(0) ? T(0) : share / d);
      grad += gamma * share * bounded(bce);
    }
  } else {
    T target = y;
    if constexpr (K == Kind::kMatchabilityAware) target = power<P>(y, gamma);
    if constexpr (K == Kind::kIouAwareBce) {
      // By logarithms: near 1, where the derivative is the small p - t, a product of powers loses its digits.
      const T log_p = (z < T(0) ? (z < T(-1e30) ? T(-1e30) : z) : T(0)) - s.log1p_exp;
      target = exp_nonpositive(alpha * log_p + (T(1) - alpha) * log_positive(y > T(0) ? y : T(1)));
      target = target < T(0.01) ? T(0.01) : target;
    }
    const T bce = binary_cross_entropy(z, target, s.log1p_exp);
    const T d = z < T(0) ? s.p - target : (T(1) - target) - s.q;
    const T positive = K == Kind::kVarifocal ? y : T(1);
    T negative_loss, negative_grad;
    negative<P, K == Kind::kMatchabilityAware>(z, gamma, negative_loss, negative_grad);
    const T scale = K == Kind::kIouAwareBce ? T(1) : alpha;
    loss = y > T(0) ? positive * bce : scale * negative_loss;
    grad = y > T(0) ? positive * d : scale * negative_grad;
  }
  loss = z != z ? z : loss;
  grad = z != z ? z : grad;
}

}  // namespace focaldet
