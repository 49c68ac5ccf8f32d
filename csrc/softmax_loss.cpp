// Loss and derivative of the softmax losses in one pass over logits (O, K, I), contiguous; formulas in softmax_blocks.h.
// kLanes rows at a time are placed side by side in a scratch buffer that stays in the cache.
#include <algorithm>

#include "softmax_blocks.h"
#include "tensors.h"

namespace focaldet {
namespace {

constexpr int64_t kStretch = 32 * kLanes;  // rows

struct Pass {
  SoftmaxSpec spec;
  int64_t inner;
  Dtype dtype;
  const void* logits;
  void* grad;     // nullptr: not requested. May be the logits.
  float* losses;  // nullptr: only the sum is requested
  const int64_t* labels;
  int64_t ignore_index;
  Floats positions, teacher, weight, class_alpha;
  float factor;       // of the loss
  float grad_factor;  // of the derivative

  double run(int64_t begin, int64_t end) const {
    const int num_classes = spec.num_classes;
    std::vector<float> z(static_cast<size_t>(num_classes) * kLanes), rows(inner == 1 ? z.size() : 0);
    std::vector<float> taught(teacher ? z.size() : 0), ratio(taught.size());
    alignas(64) float loss[kLanes], share[kLanes], f[kLanes] = {}, g[kLanes] = {}, position[kLanes] = {};
    int label[kLanes] = {};
    double sum = 0;
    for (int64_t row = begin; row < end;) {
      int n = static_cast<int>(std::min<int64_t>(kLanes, end - row));
      if (inner > 1) n = static_cast<int>(std::min<int64_t>(n, inner - row % inner));  // along one map
      load_rows(dtype, logits, row, n, rows.data(), z.data());
      if (teacher) load_rows(teacher.dtype, teacher.data, row, n, rows.data(), taught.data());
      // Lanes beyond n keep values of an earlier row; nothing reads them.
      if (labels != nullptr) {
        label_lanes(labels + row, n, ignore_index, label, share);
      } else {
        if (positions) load_block(positions.dtype, positions.data, row, n, position);
        std::fill(share, share + n, 1.f);
      }
      weigh(row, n, label, share);
      for (int j = 0; j < n; ++j) {
        if (share[j] == 0.f)  // no loss and no gradient, whatever its values
          for (int k = 0; k < num_classes; ++k) {
            z[k * kLanes + j] = 0.f;
            if (teacher) taught[k * kLanes + j] = 0.f;
          }
        f[j] = share[j] == 0.f ? 0.f : factor * share[j];
        g[j] = share[j] == 0.f ? 0.f : grad_factor * share[j];
      }
      if (labels != nullptr) {
        focal_rows(spec, z.data(), label, f, g, grad != nullptr, loss);
      } else if (teacher) {
        distillation_rows(spec, z.data(), taught.data(), ratio.data(), f, g, loss);
      } else {
        distribution_rows(spec, z.data(), position, f, g, grad != nullptr, loss);
      }
      if (losses != nullptr) {
        std::copy(loss, loss + n, losses + row);
      } else {
        sum += sum_lanes(loss, n);
      }
      if (grad != nullptr) store_rows(row, n, z.data(), rows.data());
      row += n;
    }
    return sum;
  }

  // Multiplies rows that are not ignored by their weight, and by their class's weight if no smoothing mixes classes.
  void weigh(int64_t row, int n, const int* label, float* share) const {
    const bool by_class = class_alpha && spec.class_alpha == nullptr;
    if (!weight && !by_class) return;
    for (int j = 0; j < n; ++j) {
      if (share[j] == 0.f) continue;
      if (weight) share[j] *= weight[row + j];
      if (by_class) share[j] *= class_alpha[label[j]];
    }
  }

  // Consecutive rows of logits (inner = 1) are transposed into lanes. In a map, lanes are already side by side.
  void load_rows(Dtype type, const void* source, int64_t row, int n, float* rows, float* z) const {
    const int num_classes = spec.num_classes;
    if (inner > 1) {
      const int64_t start = row / inner * num_classes * inner + row % inner;
      for (int k = 0; k < num_classes; ++k) load_block(type, source, start + k * inner, n, z + k * kLanes);
      return;
    }
    const float* from = static_cast<const float*>(source) + row * num_classes;
    if (type != Dtype::kFloat) {
      load_block(type, source, row * num_classes, n * num_classes, rows);
      from = rows;
    }
    rows_to_lanes(from, n, num_classes, z);
  }

  void store_rows(int64_t row, int n, const float* z, float* rows) const {
    const int num_classes = spec.num_classes;
    if (inner > 1) {
      const int64_t start = row / inner * num_classes * inner + row % inner;
      for (int k = 0; k < num_classes; ++k) store_block(dtype, grad, start + k * inner, n, z + k * kLanes);
      return;
    }
    float* to = dtype == Dtype::kFloat ? static_cast<float*>(grad) + row * num_classes : rows;
    lanes_to_rows(z, n, num_classes, to);
    if (dtype != Dtype::kFloat) store_block(dtype, grad, row * num_classes, n * num_classes, rows);
  }
};

// Whether every label is a class or ignored; every position within the bins. Loops without early exit, to be vectorised.
FOCALDET_CLONES bool all_known(const int64_t* labels, int64_t n, int64_t num_classes, int64_t ignore_index) {
  int64_t wrong = 0;
  for (int64_t r = 0; r < n; ++r)
    wrong |= ((labels[r] < 0) | (labels[r] >= num_classes)) & (labels[r] != ignore_index) ? 1 : 0;
  return wrong == 0;
}

FOCALDET_CLONES bool all_within(const float* positions, int64_t n, float last) {
  int32_t wrong = 0;
  for (int64_t r = 0; r < n; ++r) wrong |= (positions[r] >= 0.f) & (positions[r] <= last) ? 0 : 1;
  return wrong == 0;
}

void check_rows(const Pass& pass, int64_t rows) {
  if (pass.teacher) return;
  const int num_classes = pass.spec.num_classes;
  const float last = static_cast<float>(num_classes - 1);
  if (pass.labels != nullptr) {
    if (all_known(pass.labels, rows, num_classes, pass.ignore_index)) return;
    const int64_t* wrong = std::find_if(pass.labels, pass.labels + rows, [&](int64_t label) {
      return (label < 0 || label >= num_classes) && label != pass.ignore_index;
    });
    STD_TORCH_CHECK(false, "labels: expected 0 .. ", num_classes - 1, " for ", num_classes, " classes, got ", *wrong);
  } else if (pass.positions.dtype != Dtype::kFloat ||
             !all_within(static_cast<const float*>(pass.positions.data), rows, last)) {
    for (int64_t r = 0; r < rows; ++r) {
      const float y = pass.positions[r];
      STD_TORCH_CHECK(y >= 0 && y <= last, "targets: expected 0 .. ", num_classes - 1, " for ", num_classes,
                      " bins, got ", y);
    }
  }
}

Tensor run_pass(const Tensor& logits, void* grad, const MaybeTensor& labels, const MaybeTensor& positions,
                const MaybeTensor& teacher, const MaybeTensor& weight, const MaybeTensor& class_alpha,
                const MaybeTensor& normalizer, const MaybeTensor& grad_scale, double gamma, double label_smoothing,
                double temperature, int64_t ignore_index, double scale, bool reduce) {
  STD_TORCH_CHECK(logits.dim() == 3 && logits.is_contiguous(), "logits: expected a contiguous (O, K, I)");
  STD_TORCH_CHECK(labels.has_value() + positions.has_value() + teacher.has_value() == 1,
                  "expected either labels, positions or a teacher");
  STD_TORCH_CHECK(gamma >= 0, "gamma: expected a number >= 0");
  STD_TORCH_CHECK(temperature > 0, "temperature: expected a number > 0");
  const int64_t num_classes = logits.size(1), rows = logits.size(0) * logits.size(2);
  STD_TORCH_CHECK(num_classes > (positions.has_value() ? 1 : 0) && num_classes < (int64_t{1} << 26),
                  "logits: expected at least one class, or two bins");
  Pass pass{};
  pass.spec = {static_cast<int>(num_classes), power_of(gamma), static_cast<float>(gamma),
               static_cast<float>(label_smoothing), static_cast<float>(num_classes), nullptr,
               static_cast<float>(temperature)};
  pass.inner = std::max<int64_t>(logits.size(2), 1);
  pass.dtype = dtype_of(logits, "logits");
  pass.logits = logits.const_data_ptr();
  pass.grad = grad;
  pass.labels = rows == 0 ? nullptr : labels_of(labels, "labels", rows);
  pass.ignore_index = ignore_index;
  pass.positions = Floats(positions, "positions", rows);
  pass.teacher = Floats(teacher, "teacher", logits.numel());
  pass.weight = Floats(weight, "weight", rows);
  pass.class_alpha = Floats(class_alpha, "class_alpha", num_classes);
  std::vector<float> alpha;
  if (pass.class_alpha && label_smoothing != 0) {
    double sum = 0;
    for (int64_t k = 0; k < num_classes; ++k) alpha.push_back(pass.class_alpha[k]), sum += alpha.back();
    pass.spec.class_alpha = alpha.data();
    pass.spec.alpha_sum = static_cast<float>(sum);
  }
  const double factor = factor_of(scale, normalizer);
  pass.factor = static_cast<float>(factor);
  pass.grad_factor = grad_factor_of(factor, grad_scale);
  check_rows(pass, rows);  // before anything is written
  Tensor losses = logits;
  if (!reduce) {
    losses = empty(logits, {logits.size(0), logits.size(2)}, torch::headeronly::ScalarType::Float);
    pass.losses = static_cast<float*>(losses.mutable_data_ptr());
  }
  const double sum = sum_in_order(rows, kStretch, [&](int64_t first, int64_t last) { return pass.run(first, last); });
  return reduce ? scalar(logits, sum) : losses;
}

std::tuple<Tensor, Tensor> softmax_loss(Tensor logits, MaybeTensor labels, MaybeTensor positions, MaybeTensor teacher,
                                        MaybeTensor weight, MaybeTensor class_alpha, MaybeTensor normalizer,
                                        MaybeTensor grad_scale, double gamma, double label_smoothing,
                                        double temperature, int64_t ignore_index, double scale, bool reduce,
                                        bool needs_grad) {
  Tensor grad = needs_grad ? empty_grad(logits) : empty(logits, {0}, logits.scalar_type());
  Tensor loss = run_pass(logits, needs_grad ? grad.mutable_data_ptr() : nullptr, labels, positions, teacher, weight,
                         class_alpha, normalizer, grad_scale, gamma, label_smoothing, temperature, ignore_index, scale,
                         reduce);
  return {loss, grad};
}

// The same with the derivative written over the logits.
Tensor softmax_loss_inplace(Tensor logits, MaybeTensor labels, MaybeTensor positions, MaybeTensor teacher,
                            MaybeTensor weight, MaybeTensor class_alpha, MaybeTensor normalizer, MaybeTensor grad_scale,
                            double gamma, double label_smoothing, double temperature, int64_t ignore_index,
                            double scale, bool reduce) {
  return run_pass(logits, logits.mutable_data_ptr(), labels, positions, teacher, weight, class_alpha, normalizer,
                  grad_scale, gamma, label_smoothing, temperature, ignore_index, scale, reduce);
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("softmax_loss", TORCH_BOX(&focaldet::softmax_loss));
  library.impl("softmax_loss_inplace", TORCH_BOX(&focaldet::softmax_loss_inplace));
}
