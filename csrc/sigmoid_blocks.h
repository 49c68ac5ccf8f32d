// The inner loops of the sigmoid losses over float buffers of at most kBlock elements.
#pragma once

#include "sigmoid_formulas.h"

namespace focaldet {

struct SigmoidSpec {
  Kind kind;
  Power power;
  float gamma;
  float alpha;           // varifocal and matchability-aware: weight of the negatives; IoU-aware: the share α
  float weight0;         // focal: weight of target y is weight0 + weight1 * y
  float weight1;
  float negative_scale;  // the factor on p^γ softplus(z)
};

// Losses of negatives, and their derivatives times `factor`. `grad` may be nullptr (not requested), and may be `z`.
void negative_block(const SigmoidSpec& spec, const float* z, int n, float factor, float* loss, float* grad);

// Negatives, each with its own exponent and weight; the derivatives are not multiplied.
void negative_block_by_class(const SigmoidSpec& spec, const float* z, const float* gamma, const float* weight, int n,
                             float* loss, float* grad);

// As negative_block, for any targets; `grad` must not be nullptr.
void target_block(const SigmoidSpec& spec, const float* z, const float* y, int n, float factor, float* loss,
                  float* grad);

// One positive of a sparse target, in double.
void positive(const SigmoidSpec& spec, double z, double y, double& loss, double& grad);

// x[j] *= factor[j], where a factor of 0 makes 0 of NaN too, and x[j] *= factor.
void multiply_block(float* x, const float* factor, int n);
void multiply_block(float* x, float factor, int n);

// sum[j] += x[j].
void add_block(float* sum, const float* x, int n);

double sum_block(const float* x, int n);

// Whether all labels are BACKGROUND (-1).
bool all_background(const int64_t* labels, int n);

}  // namespace focaldet
