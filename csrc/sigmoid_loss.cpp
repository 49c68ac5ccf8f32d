// Loss and derivative of the sigmoid losses in one pass over logits (O, C, I), contiguous; formulas in
// sigmoid_formulas.h. Each logit is read once and each derivative written once. A sparse target costs one read of a
// site's label: every entry is first treated as a negative, and the few positives and ignored entries are corrected while
// they are still in the cache.
#include <algorithm>

#include "sigmoid_blocks.h"
#include "tensors.h"

namespace focaldet {
namespace {

constexpr int64_t kBackground = -1;
constexpr int64_t kIgnored = -2;
constexpr int64_t kStretch = 32 * kBlock;

// The weight of target y for a class's own α: of positives in focal loss, of negatives in the others.
float alpha_share(Kind kind, float alpha, float y) {
  if (kind == Kind::kFocal) return alpha * y + (1.f - alpha) * (1.f - y);
  return y > 0.f ? 1.f : alpha;
}

struct Pass {
  SigmoidSpec spec;
  int64_t num_classes, inner;
  Dtype dtype;
  const void* logits;
  void* grad;         // nullptr: not requested. May be the logits.
  float* losses;      // nullptr: only the sum is requested
  const int64_t* labels;
  Floats quality, targets, class_alpha;
  Floats weight;
  int64_t weight_strides[3] = {0, 0, 0};
  float factor;       // for written losses
  float grad_factor;  // for the derivative

  int64_t site(int64_t e) const { return e / (num_classes * inner) * inner + e % inner; }
  int64_t class_of(int64_t e) const { return e / inner % num_classes; }

  // Factor on the formula at element e: the weight and, for a class's own α, its share of this target.
  float element_factor(int64_t e, float y) const {
    float f = 1.f;
    if (weight) {
      const int64_t o = e / (num_classes * inner);
      f = weight[o * weight_strides[0] + class_of(e) * weight_strides[1] + e % inner * weight_strides[2]];
    }
    if (class_alpha) {
      f *= alpha_share(spec.kind, class_alpha[class_of(e)], y);
    }
    return f;
  }

  // element_factor of the elements [e, e + n), without a division for each.
  void fill_factors(int64_t e, int n, const float* y, float* f) const {
    int64_t o = e / (num_classes * inner), c = class_of(e), i = e % inner;
    for (int j = 0; j < n; ++j) {
      f[j] = weight ? weight[o * weight_strides[0] + c * weight_strides[1] + i * weight_strides[2]] : 1.f;
      if (class_alpha) f[j] *= alpha_share(spec.kind, class_alpha[c], y != nullptr ? y[j] : 0.f);
      if (++i == inner) {
        i = 0;
        if (++c == num_classes) c = 0, ++o;
      }
    }
  }

  // Whether negative_block would be wrong about one of the elements [e, e + n).
  bool has_special(int64_t e, int n) const {
    if (labels == nullptr) return false;
    if (inner == 1) {
      const int64_t row = e / num_classes;
      return !all_background(labels + row, static_cast<int>((e + n - 1) / num_classes - row + 1));
    }
    for (int j = 0; j < n;) {
      const int run = static_cast<int>(std::min<int64_t>(n - j, inner - (e + j) % inner));
      if (!all_background(labels + site(e + j), run)) return true;
      j += run;
    }
    return false;
  }

  // Corrects what negative_block assumed about element e.
  void set_special(int64_t e, float z, float* loss, float* slope) const {
    const int64_t label = labels[site(e)];
    if (label == kIgnored) {
      *loss = *slope = 0.f;
    } else if (label == class_of(e)) {
      const float y = quality ? quality[site(e)] : 1.f;
      double value, derivative;
      positive(spec, z, y, value, derivative);
      const double f = element_factor(e, y);
      *loss = f == 0 ? 0.f : static_cast<float>(f * value);
      *slope = f == 0 ? 0.f : static_cast<float>(f * grad_factor * derivative);
    }
  }

  void set_specials(int64_t e, int n, const float* z, float* loss, float* slope) const {
    if (inner > 1) {
      for (int j = 0; j < n; ++j) set_special(e + j, z[j], loss + j, slope + j);
      return;
    }
    for (int64_t row = e / num_classes; row * num_classes < e + n; ++row) {
      const int64_t label = labels[row];
      if (label == kBackground) continue;
      int64_t first = row * num_classes, last = first + num_classes;
      if (label != kIgnored) first += label, last = first + 1;
      for (int64_t k = std::max(first, e); k < std::min(last, e + n); ++k)
        set_special(k, z[k - e], loss + (k - e), slope + (k - e));
    }
  }

  double run(int64_t begin, int64_t end) const {
    alignas(64) float z_buffer[kBlock], slope_buffer[kBlock], loss[kBlock], y[kBlock], f[kBlock];
    double sum = 0;
    for (int64_t e = begin; e < end; e += kBlock) {
      const int n = static_cast<int>(std::min<int64_t>(kBlock, end - e));
      const bool special = has_special(e, n);
      // If nothing needs correction, float32 is read and written in place.
      const bool direct = dtype == Dtype::kFloat && labels != nullptr && !special;
      const float* z = direct ? static_cast<const float*>(logits) + e : z_buffer;
      float* slope = direct && grad != nullptr ? static_cast<float*>(grad) + e : slope_buffer;
      if (!direct) load_block(dtype, logits, e, n, z_buffer);
      if (labels != nullptr) {
        negative_block(spec, z, n, grad_factor, loss, grad != nullptr ? slope : nullptr);
      } else {
        load_block(targets.dtype, targets.data, e, n, y);
        target_block(spec, z, y, n, grad_factor, loss, slope);
      }
      if (weight || class_alpha) {
        fill_factors(e, n, labels != nullptr ? nullptr : y, f);
        multiply_block(loss, f, n);
        if (grad != nullptr) multiply_block(slope, f, n);
      }
      if (special) set_specials(e, n, z, loss, slope);
      if (losses != nullptr) {
        multiply_block(loss, factor, n);
        store_block(Dtype::kFloat, losses, e, n, loss);
      } else {
        sum += sum_block(loss, n);
      }
      if (grad != nullptr && !direct) store_block(dtype, grad, e, n, slope);
    }
    return sum;
  }
};

SigmoidSpec spec_of(int64_t kind, double gamma, std::optional<double> alpha, bool class_alpha) {
  SigmoidSpec s;
  s.kind = static_cast<Kind>(kind);
  s.power = s.kind == Kind::kBinaryCrossEntropy ? Power::kZero : power_of(gamma);
  s.gamma = static_cast<float>(gamma);
  s.alpha = static_cast<float>(alpha.value_or(1.0));
  s.weight0 = s.negative_scale = 1.f;
  s.weight1 = 0.f;
  if (class_alpha) {
    s.alpha = 1.f;  // each element's α is in its other factors
  } else if (s.kind == Kind::kFocal && alpha.has_value()) {
    s.weight0 = s.negative_scale = static_cast<float>(1.0 - *alpha);
    s.weight1 = static_cast<float>(2.0 * *alpha - 1.0);
  } else if (s.kind == Kind::kVarifocal || s.kind == Kind::kMatchabilityAware) {
    s.negative_scale = s.alpha;
  }
  return s;
}

void check_labels(const int64_t* labels, int64_t n, int64_t num_classes) {
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) low = std::min(low, labels[i]), high = std::max(high, labels[i]);
  STD_TORCH_CHECK(low >= kIgnored && (high < num_classes || n == 0), "labels: expected ", kIgnored, " .. ",
                  num_classes - 1, " for ", num_classes, " classes, got ", low < kIgnored ? low : high);
}

// Loss of `logits`, and its derivative, written to `grad` if given.
Tensor run_pass(const Tensor& logits, void* grad, const MaybeTensor& labels, const MaybeTensor& quality,
                const MaybeTensor& targets, const MaybeTensor& weight, const MaybeTensor& class_alpha,
                const MaybeTensor& normalizer, const MaybeTensor& grad_scale, int64_t kind, double gamma,
                std::optional<double> alpha, double scale, bool reduce) {
  STD_TORCH_CHECK(logits.dim() == 3 && logits.is_contiguous(), "logits: expected a contiguous (O, C, I)");
  STD_TORCH_CHECK(labels.has_value() != targets.has_value(), "expected either labels or targets");
  STD_TORCH_CHECK(0 <= kind && kind <= 5 && gamma >= 0, "expected a kind in 0 .. 5 and gamma >= 0");
  const int64_t total = logits.numel(), num_classes = logits.size(1), num_sites = logits.size(0) * logits.size(2);
  Pass pass{};
  pass.spec = spec_of(kind, gamma, alpha, class_alpha.has_value());
  pass.num_classes = num_classes;
  pass.inner = logits.size(2);
  pass.dtype = dtype_of(logits, "logits");
  pass.logits = logits.const_data_ptr();
  pass.grad = grad;
  pass.labels = labels_of(labels, "labels", num_sites);
  pass.quality = Floats(quality, "quality", num_sites);
  pass.targets = Floats(targets, "targets", total);
  pass.class_alpha = Floats(class_alpha, "class_alpha", num_classes);
  if (weight.has_value()) {
    STD_TORCH_CHECK(weight->dim() == 3 && weight->is_contiguous(), "weight: expected a contiguous 3-d tensor");
    pass.weight = Floats(weight, "weight", weight->numel());
    int64_t stride = 1;
    for (int64_t d = 2; d >= 0; stride *= weight->size(d), --d) {
      STD_TORCH_CHECK(weight->size(d) == 1 || weight->size(d) == logits.size(d),
                      "weight: does not broadcast against the logits");
      pass.weight_strides[d] = weight->size(d) == 1 ? 0 : stride;
    }
  }
  if (total == 0) pass.labels = nullptr;
  if (pass.labels != nullptr) check_labels(pass.labels, num_sites, num_classes);
  const double factor = factor_of(scale, normalizer);
  pass.factor = static_cast<float>(factor);
  pass.grad_factor = grad_factor_of(factor, grad_scale);
  if (!reduce) {
    Tensor losses = empty(logits, {logits.size(0), num_classes, logits.size(2)}, torch::headeronly::ScalarType::Float);
    pass.losses = static_cast<float*>(losses.mutable_data_ptr());
    sum_in_order(total, kStretch, [&](int64_t first, int64_t last) { return pass.run(first, last); });
    return losses;
  }
  const double sum = sum_in_order(total, kStretch, [&](int64_t first, int64_t last) { return pass.run(first, last); });
  return scalar(logits, sum * factor);
}

std::tuple<Tensor, Tensor> sigmoid_loss(Tensor logits, MaybeTensor labels, MaybeTensor quality, MaybeTensor targets,
                                        MaybeTensor weight, MaybeTensor class_alpha, MaybeTensor normalizer,
                                        MaybeTensor grad_scale, int64_t kind, double gamma,
                                        std::optional<double> alpha, double scale, bool reduce, bool needs_grad) {
  Tensor grad = needs_grad ? empty_grad(logits) : empty(logits, {0}, logits.scalar_type());
  Tensor loss = run_pass(logits, needs_grad ? grad.mutable_data_ptr() : nullptr, labels, quality, targets, weight,
                         class_alpha, normalizer, grad_scale, kind, gamma, alpha, scale, reduce);
  return {loss, grad};
}

// The same with the derivative written over the logits.
Tensor sigmoid_loss_inplace(Tensor logits, MaybeTensor labels, MaybeTensor quality, MaybeTensor targets,
                            MaybeTensor weight, MaybeTensor class_alpha, MaybeTensor normalizer,
                            MaybeTensor grad_scale, int64_t kind, double gamma, std::optional<double> alpha,
                            double scale, bool reduce) {
  return run_pass(logits, logits.mutable_data_ptr(), labels, quality, targets, weight, class_alpha, normalizer,
                  grad_scale, kind, gamma, alpha, scale, reduce);
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("sigmoid_loss", TORCH_BOX(&focaldet::sigmoid_loss));
  library.impl("sigmoid_loss_inplace", TORCH_BOX(&focaldet::sigmoid_loss_inplace));
}
