// GIoU loss of paired boxes (x1, y1, x2, y2) and its derivative on the first of each pair, in one pass.
//
//   I = w h of the overlap, U = A + A' - I, H = W' H' of the hull
//   L = 1 - I / (U + ε) + (H - U) / (H + ε) = 2 - I / (U + ε) - (U + ε) / (H + ε)
//
//   dL = (dU) I / (U + ε)² - dI / (U + ε) - dU / (H + ε) + dH (U + ε) / (H + ε)²,   dU = dA - dI
//      = a dI + b dA + c dH
//   b = I / (U + ε)² - 1 / (H + ε),   a = -1 / (U + ε) - b,   c = (U + ε) / (H + ε)²
//
//   dI/dx1 = -h where x1 is the overlap's side, dA/dx1 = -(y2 - y1), dH/dx1 = -(hull's height) where x1 is the hull's
//   side; for two equal sides each counts half. The other sides likewise.
#include <algorithm>

#include "tensors.h"
#include "vector_math.h"

namespace focaldet {
namespace {

constexpr int kPairs = 128;          // pairs in the scratch buffers
constexpr int64_t kStretch = 16 * kPairs;
constexpr float kEps = 1e-7f;

// 1 where x > y, ½ where they are equal.
FOCALDET_INLINE float above(float x, float y) { return x > y ? 1.f : x == y ? 0.5f : 0.f; }
FOCALDET_INLINE float larger(float x, float y) { return x != x ? x : x > y ? x : y; }
FOCALDET_INLINE float smaller(float x, float y) { return x != x ? x : x < y ? x : y; }

FOCALDET_CLONES void giou_block(const float (*box)[kPairs], const float (*target)[kPairs], int n, float* loss,
                                float (*grad)[kPairs]) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    const float x1 = box[0][j], y1 = box[1][j], x2 = box[2][j], y2 = box[3][j];
    const float s1 = target[0][j], t1 = target[1][j], s2 = target[2][j], t2 = target[3][j];
    const float raw_width = smaller(x2, s2) - larger(x1, s1), raw_height = smaller(y2, t2) - larger(y1, t1);
    const float width = raw_width < 0.f ? 0.f : raw_width, height = raw_height < 0.f ? 0.f : raw_height;
    const float hull_width = larger(x2, s2) - smaller(x1, s1), hull_height = larger(y2, t2) - smaller(y1, t1);
    const float overlap = width * height, hull = hull_width * hull_height;
    const float all = (x2 - x1) * (y2 - y1) + (s2 - s1) * (t2 - t1) - overlap;
    const float per_all = 1.f / (all + kEps), per_hull = 1.f / (hull + kEps);
    loss[j] = 1.f - overlap * per_all + (hull - all) * per_hull;
    const float b = overlap * per_all * per_all - per_hull;
    const float a = -per_all - b;
    const float c = (all + kEps) * per_hull * per_hull;
    const float by_width = raw_width < 0.f ? 0.f : a * height, by_height = raw_height < 0.f ? 0.f : a * width;
    grad[0][j] = -by_width * above(x1, s1) - b * (y2 - y1) - c * hull_height * above(s1, x1);
    grad[1][j] = -by_height * above(y1, t1) - b * (x2 - x1) - c * hull_width * above(t1, y1);
    grad[2][j] = by_width * above(s2, x2) + b * (y2 - y1) + c * hull_height * above(x2, s2);
    grad[3][j] = by_height * above(t2, y2) + b * (x2 - x1) + c * hull_width * above(y2, t2);
  }
}

struct Pass {
  Dtype dtype, target_dtype;
  const void* boxes;
  const void* targets;
  Floats weight;
  void* grad;
  float* losses;
  float factor, grad_factor;  // of the loss and of the derivative

  static void load_pairs(Dtype dtype, const void* source, int64_t first, int n, float (*to)[kPairs]) {
    float rows[4 * kPairs];
    load_block(dtype, source, 4 * first, 4 * n, rows);
    for (int j = 0; j < n; ++j)
      for (int k = 0; k < 4; ++k) to[k][j] = rows[4 * j + k];
  }

  double run(int64_t begin, int64_t end) const {
    alignas(64) float box[4][kPairs], target[4][kPairs], slope[4][kPairs], loss[kPairs], rows[4 * kPairs];
    double sum = 0;
    for (int64_t first = begin; first < end; first += kPairs) {
      const int n = static_cast<int>(std::min<int64_t>(kPairs, end - first));
      load_pairs(dtype, boxes, first, n, box);
      load_pairs(target_dtype, targets, first, n, target);
      giou_block(box, target, n, loss, slope);
      for (int j = 0; j < n; ++j) {
        const float share = weight ? weight[first + j] : 1.f;
        loss[j] = share == 0.f ? 0.f : loss[j] * (factor * share);
        for (int k = 0; k < 4; ++k) rows[4 * j + k] = share == 0.f ? 0.f : grad_factor * share * slope[k][j];
      }
      if (losses != nullptr) {
        std::copy(loss, loss + n, losses + first);
      } else {
        sum += sum_lanes(loss, n);
      }
      if (grad != nullptr) store_block(dtype, grad, 4 * first, 4 * n, rows);
    }
    return sum;
  }
};

Tensor run_pass(const Tensor& boxes, void* grad, const Tensor& targets, const MaybeTensor& weight,
                const MaybeTensor& normalizer, const MaybeTensor& grad_scale, double scale, bool reduce) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_contiguous(), "boxes: expected contiguous (N, 4)");
  STD_TORCH_CHECK(targets.numel() == boxes.numel() && targets.is_contiguous(), "target boxes: expected contiguous (N, 4)");
  const int64_t pairs = boxes.size(0);
  const double factor = factor_of(scale, normalizer);
  Pass pass{dtype_of(boxes, "boxes"), dtype_of(targets, "target boxes"), boxes.const_data_ptr(),
            targets.const_data_ptr(), Floats(weight, "weight", pairs), grad, nullptr,
            static_cast<float>(factor), grad_factor_of(factor, grad_scale)};
  Tensor losses = boxes;
  if (!reduce) {
    losses = empty(boxes, {pairs}, torch::headeronly::ScalarType::Float);
    pass.losses = static_cast<float*>(losses.mutable_data_ptr());
  }
  const double sum = sum_in_order(pairs, kStretch, [&](int64_t first, int64_t last) { return pass.run(first, last); });
  return reduce ? scalar(boxes, sum) : losses;
}

std::tuple<Tensor, Tensor> paired_giou_loss(Tensor boxes, Tensor targets, MaybeTensor weight, MaybeTensor normalizer,
                                            MaybeTensor grad_scale, double scale, bool reduce, bool needs_grad) {
  Tensor grad = needs_grad ? empty_grad(boxes) : empty(boxes, {0}, boxes.scalar_type());
  Tensor loss = run_pass(boxes, needs_grad ? grad.mutable_data_ptr() : nullptr, targets, weight, normalizer, grad_scale,
                         scale, reduce);
  return {loss, grad};
}

// The same with the derivative written over the boxes.
Tensor paired_giou_loss_inplace(Tensor boxes, Tensor targets, MaybeTensor weight, MaybeTensor normalizer,
                                MaybeTensor grad_scale, double scale, bool reduce) {
  return run_pass(boxes, boxes.mutable_data_ptr(), targets, weight, normalizer, grad_scale, scale, reduce);
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("paired_giou_loss", TORCH_BOX(&focaldet::paired_giou_loss));
  library.impl("paired_giou_loss_inplace", TORCH_BOX(&focaldet::paired_giou_loss_inplace));
}
