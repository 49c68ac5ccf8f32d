// Cross entropy, focal loss, distribution focal loss and distillation over a softmax: value and derivative on the logits
// z_0 .. z_{K-1}.
//
//   p_k = exp(z_k - m) / s,  m = max z,  s = Σ exp(z_k - m)
//
//   focal, label t     M S,  M = (1 - p_t)^γ,  S = -Σ c_k log p_k,  c_k = (1 - ε) α_t [k = t] + ε/K α_k,  c = Σ c_k
//                      dS/dz_k = c p_k - c_k
//                      dM/dz_k = γ (M / (1 - p_t)) p_t (p_k - [k = t])
//                      so with a = M and b = γ M p_t S:
//                      d/dz_k = a c p_k + b p_k / (1 - p_t) - a c_k,       k != t
//                             = -a c (1 - p_t) - b + a (c - c_t),          k  = t
//                      where p_k / (1 - p_t) is a share of the other exponentials: at most 1, however small they are
//   distribution       S = -((1 - w) log p_i + w log p_{i+1}),  y = i + w
//                      d/dz_k = p_k - (1 - w) [k = i] - w [k = i + 1]
//   distillation       T² Σ q_k log(q_k / p_k),  p and q of the logits z and of the teacher's, all divided by T
//                      = T² Σ q_k (exp(r_k) - 1 - r_k),  r_k = log(p_k / q_k),  since Σ p_k = Σ q_k: no term is negative, so
//                      that T² does not multiply a rounding error
//                      d/dz_k = T (p_k - q_k)
//
// 1 - p_t is the sum of the other exponentials over s: it keeps its digits where p_t is near 1.
//
// kLanes rows are processed side by side, z[k * kLanes + lane]: no sum runs across a vector and no row has a tail.
#pragma once

#include "vector_math.h"

namespace focaldet {

constexpr int kLanes = 32;

struct SoftmaxSpec {
  int num_classes;
  Power power;
  float gamma;
  float smoothing;
  float alpha_sum;           // of class_alpha, or the number of classes
  const float* class_alpha;  // with smoothing, each class has its own weight; else nullptr, and α_t is in the factors
  float temperature;         // of distillation
};

// z is overwritten by the derivatives (only if requested). `factor` multiplies the loss of each lane's row, `grad_factor`
// its derivatives.
void focal_rows(const SoftmaxSpec& spec, float* z, const int* label, const float* factor, const float* grad_factor,
                bool wants_grad, float* loss);
void distribution_rows(const SoftmaxSpec& spec, float* z, const float* position, const float* factor,
                       const float* grad_factor, bool wants_grad, float* loss);
// `teacher` is overwritten too; `ratio` is scratch of the same size.
void distillation_rows(const SoftmaxSpec& spec, float* z, float* teacher, float* ratio, const float* factor,
                       const float* grad_factor, float* loss);

// Labels as lanes. `share` becomes 0 where a label is ignored, and 1 elsewhere; an ignored row gets the label 0.
void label_lanes(const int64_t* labels, int n, int64_t ignore_index, int* label, float* share);

// Rows of logits in memory order, (n, num_classes), to lanes and back.
void rows_to_lanes(const float* rows, int n, int num_classes, float* z);
void lanes_to_rows(const float* z, int n, int num_classes, float* rows);

}  // namespace focaldet
