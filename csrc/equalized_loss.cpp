// Focal and quality focal loss with an exponent and a weight of each class, their derivative, and the sums of the
// derivative's size over the positives and over the negatives of each class, in one pass over logits (O, C, I).
//
// With I = 1, the classes of a block of logits repeat cyclically: the exponents are a cyclic table, read from the block's
// start, and the sums are one cyclic buffer. So the sums cost one addition per logit.
#include <algorithm>
#include <vector>

#include "sigmoid_blocks.h"
#include "tensors.h"

namespace focaldet {
namespace {

constexpr int64_t kBackground = -1;
constexpr int64_t kIgnored = -2;
constexpr int64_t kStretch = 128 * kBlock;  // long, since the sums of each are added up

struct Pass {
  SigmoidSpec spec;  // its gamma is not used
  int64_t num_classes, inner;
  Dtype dtype;
  const void* logits;
  void* grad;
  const int64_t* labels;
  Floats quality;
  const float* gammas;   // num_classes + kBlock, cyclic
  const float* weights;  // the same
  float grad_factor;
  double* sums;  // (stretches, 2, C): positives, negatives; nullptr: not requested

  int64_t site(int64_t e) const { return e / (num_classes * inner) * inner + e % inner; }
  int64_t class_of(int64_t e) const { return e / inner % num_classes; }

  // Runs of one class within the elements [e, e + n): call(first, length, class).
  template <class Call>
  void each_run(int64_t e, int n, const Call& call) const {
    for (int j = 0; j < n;) {
      const int run = static_cast<int>(std::min<int64_t>(n - j, inner - (e + j) % inner));
      call(j, run, class_of(e + j));
      j += run;
    }
  }

  bool has_special(int64_t e, int n) const {
    if (inner == 1) {
      const int64_t row = e / num_classes;
      return !all_background(labels + row, static_cast<int>((e + n - 1) / num_classes - row + 1));
    }
    bool found = false;
    each_run(e, n, [&](int j, int run, int64_t) { found |= !all_background(labels + site(e + j), run); });
    return found;
  }

  double run(int64_t begin, int64_t end) const {
    alignas(64) float z[kBlock], slope[kBlock], loss[kBlock], gamma_buffer[kBlock], weight_buffer[kBlock];
    int places[kBlock];
    float slopes[kBlock];  // slopes of the positives, at their positions
    const int64_t room = num_classes + kBlock;
    std::vector<float> round(sums != nullptr && inner == 1 ? room : 0);
    double* positives = sums == nullptr ? nullptr : sums + begin / kStretch * 2 * num_classes;
    double* negatives = sums == nullptr ? nullptr : positives + num_classes;
    double sum = 0;
    for (int64_t e = begin; e < end; e += kBlock) {
      const int n = static_cast<int>(std::min<int64_t>(kBlock, end - e));
      const float *gamma = gamma_buffer, *weight = weight_buffer;
      if (inner == 1) {
        gamma = gammas + e % num_classes, weight = weights + e % num_classes;
      } else {
        each_run(e, n, [&](int j, int run, int64_t c) {
          std::fill(gamma_buffer + j, gamma_buffer + j + run, gammas[c]);
          std::fill(weight_buffer + j, weight_buffer + j + run, weights[c]);
        });
      }
      load_block(dtype, logits, e, n, z);
      negative_block_by_class(spec, z, gamma, weight, n, loss, slope);
      int found = 0;
      if (has_special(e, n)) {
        const auto set_positive = [&](int j, int64_t c, int64_t place) {
          SigmoidSpec own = spec;
          own.gamma = gammas[c], own.power = Power::kAny;
          double value, derivative;
          positive(own, z[j], quality ? quality[place] : 1.f, value, derivative);
          loss[j] = static_cast<float>(weights[c] * value);
          places[found] = j, slopes[found++] = static_cast<float>(weights[c] * derivative);
          slope[j] = 0.f;
          if (sums != nullptr) positives[c] += derivative < 0 ? -weights[c] * derivative : weights[c] * derivative;
        };
        if (inner == 1) {
          for (int64_t row = e / num_classes; row * num_classes < e + n; ++row) {
            const int64_t label = labels[row], first = row * num_classes - e;  // of the row, counted from e
            if (label == kIgnored) {
              for (int64_t j = std::max<int64_t>(first, 0); j < std::min<int64_t>(first + num_classes, n); ++j)
                loss[j] = slope[j] = 0.f;
            } else if (label != kBackground && first + label >= 0 && first + label < n) {
              set_positive(static_cast<int>(first + label), label, row);
            }
          }
        } else {
          each_run(e, n, [&](int j, int run, int64_t c) {
            for (const int64_t place = site(e + j) - j; run > 0; --run, ++j) {
              const int64_t label = labels[place + j];
              if (label == kIgnored) loss[j] = slope[j] = 0.f;
              if (label == c) set_positive(j, c, place + j);
            }
          });
        }
      }
      // The slope of a negative is never below 0: its size is the slope itself.
      if (sums != nullptr && inner == 1) {
        add_block(round.data() + e % num_classes, slope, n);
      } else if (sums != nullptr) {
        each_run(e, n, [&](int j, int run, int64_t c) { negatives[c] += sum_block(slope + j, run); });
      }
      for (int k = 0; k < found; ++k) slope[places[k]] = slopes[k];
      sum += sum_block(loss, n);
      multiply_block(slope, grad_factor, n);
      store_block(dtype, grad, e, n, slope);
    }
    for (int64_t i = 0; i < static_cast<int64_t>(round.size()); ++i) negatives[i % num_classes] += round[i];
    return sum;
  }
};

void check_labels(const int64_t* labels, int64_t n, int64_t num_classes) {
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) low = std::min(low, labels[i]), high = std::max(high, labels[i]);
  STD_TORCH_CHECK(low >= kIgnored && (high < num_classes || n == 0), "labels: expected ", kIgnored, " .. ",
                  num_classes - 1, " for ", num_classes, " classes, got ", low < kIgnored ? low : high);
}

// Loss (0-d), derivative, and the sums (2, C) in float64: positives, negatives; (0,) if they are not requested.
std::tuple<Tensor, Tensor, Tensor> equalized_loss(Tensor logits, Tensor labels, MaybeTensor quality, Tensor gammas,
                                                  Tensor weights, MaybeTensor normalizer, MaybeTensor grad_scale,
                                                  int64_t kind, std::optional<double> alpha, double scale,
                                                  bool needs_sums) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(logits.dim() == 3 && logits.is_contiguous(), "logits: expected a contiguous (O, C, I)");
  STD_TORCH_CHECK(kind == 1 || kind == 2, "expected focal (1) or quality focal loss (2)");
  const int64_t total = logits.numel(), num_classes = logits.size(1), num_sites = logits.size(0) * logits.size(2);
  const Floats gamma(gammas, "gammas", num_classes), weight(weights, "weights", num_classes);
  std::vector<float> gamma_round(num_classes + kBlock), weight_round(num_classes + kBlock);
  for (int64_t i = 0; i < num_classes + kBlock && num_classes > 0; ++i)
    gamma_round[i] = gamma[i % num_classes], weight_round[i] = weight[i % num_classes];
  Pass pass{};
  pass.spec.kind = static_cast<Kind>(kind);
  pass.spec.alpha = pass.spec.weight0 = pass.spec.negative_scale = 1.f;
  if (pass.spec.kind == Kind::kFocal && alpha.has_value()) {
    pass.spec.weight0 = pass.spec.negative_scale = static_cast<float>(1.0 - *alpha);
    pass.spec.weight1 = static_cast<float>(2.0 * *alpha - 1.0);
  }
  pass.num_classes = num_classes;
  pass.inner = logits.size(2);
  pass.dtype = dtype_of(logits, "logits");
  pass.logits = logits.const_data_ptr();
  pass.labels = labels_of(labels, "labels", num_sites);
  pass.quality = Floats(quality, "quality", num_sites);
  if (total > 0) check_labels(pass.labels, num_sites, num_classes);
  pass.gammas = gamma_round.data();
  pass.weights = weight_round.data();
  const double factor = factor_of(scale, normalizer);
  pass.grad_factor = grad_factor_of(factor, grad_scale);
  Tensor grad = empty_grad(logits);
  pass.grad = grad.mutable_data_ptr();
  const int64_t stretches = (total + kStretch - 1) / kStretch;
  std::vector<double> partial(needs_sums ? stretches * 2 * num_classes : 0);
  pass.sums = needs_sums ? partial.data() : nullptr;
  const double sum = sum_in_order(total, kStretch, [&](int64_t first, int64_t last) { return pass.run(first, last); });
  Tensor sums = empty(logits, needs_sums ? std::vector<int64_t>{2, num_classes} : std::vector<int64_t>{0},
                      ScalarType::Double);
  double* whole = static_cast<double*>(sums.mutable_data_ptr());
  if (needs_sums) std::fill(whole, whole + 2 * num_classes, 0.0);
  for (size_t i = 0; i < partial.size(); ++i) whole[i % (2 * num_classes)] += partial[i] * (factor < 0 ? -factor : factor);
  return {scalar(logits, sum * factor), grad, sums};
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("equalized_loss", TORCH_BOX(&focaldet::equalized_loss));
}
