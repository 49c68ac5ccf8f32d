// IoU losses of paired boxes (x1, y1, x2, y2) and their derivatives on the first of each pair, in one pass; formulas in
// focaldet/losses/iou.py.
//
// GIoU: I = w h of the overlap, U = A + A' - I, H = W' H' of the hull
//   L = 1 - I / (U + ε) + (H - U) / (H + ε) = 2 - I / (U + ε) - (U + ε) / (H + ε)
//
//   dL = (dU) I / (U + ε)² - dI / (U + ε) - dU / (H + ε) + dH (U + ε) / (H + ε)²,   dU = dA - dI
//      = a dI + b dA + c dH
//   b = I / (U + ε)² - 1 / (H + ε),   a = -1 / (U + ε) - b,   c = (U + ε) / (H + ε)²
//
//   dI/dx1 = -h where x1 is the overlap's side, dA/dx1 = -(y2 - y1), dH/dx1 = -(hull's height) where x1 is the hull's
//   side; for two equal sides each counts half. The other sides likewise.
//
// The others: b = I / (U + ε)², a = -1 / (U + ε) - b, and derivatives on the sides W', H' of the hull, on the offset of
// the centres (half of it for each coordinate) and on the sides of the own box. α of CIoU is a constant.
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

// The kinds by number, as in focaldet.functional.operators.boxes.KINDS.
enum class BoxKind { kGIoU, kIoU, kDIoU, kCIoU, kEIoU, kSIoU };

// (1 - exp(-|w - w'| / max(w, w')))⁴ of SIoU, and its derivative on w.
FOCALDET_INLINE float unlike_sides(float own, float other, float& slope) {
  const float difference = own - other, size = difference < 0.f ? -difference : difference;
  const float per = 1.f / (larger(own, other) + kEps);
  const float e = std::exp(-size * per), rest = 1.f - e;
  const float sign = difference > 0.f ? 1.f : difference < 0.f ? -1.f : 0.f;
  slope = 4.f * rest * rest * rest * e * (sign * per - size * per * per * above(own, other));
  return rest * rest * rest * rest;
}

template <BoxKind K>
FOCALDET_INLINE void box_block(const float (*box)[kPairs], const float (*target)[kPairs], int n, float* loss,
                               float (*grad)[kPairs]) {
#pragma GCC ivdep
  for (int j = 0; j < n; ++j) {
    const float x1 = box[0][j], y1 = box[1][j], x2 = box[2][j], y2 = box[3][j];
    const float s1 = target[0][j], t1 = target[1][j], s2 = target[2][j], t2 = target[3][j];
    const float raw_width = smaller(x2, s2) - larger(x1, s1), raw_height = smaller(y2, t2) - larger(y1, t1);
    const float width = raw_width < 0.f ? 0.f : raw_width, height = raw_height < 0.f ? 0.f : raw_height;
    const float hull_width = larger(x2, s2) - smaller(x1, s1), hull_height = larger(y2, t2) - smaller(y1, t1);
    const float overlap = width * height;
    const float all = (x2 - x1) * (y2 - y1) + (s2 - s1) * (t2 - t1) - overlap;
    const float per_all = 1.f / (all + kEps);
    // Derivatives on overlap (a), own area (b), sides of the hull, offset of the centres, and own sides.
    float a, b, by_hull_width = 0.f, by_hull_height = 0.f, by_x = 0.f, by_y = 0.f, by_own_width = 0.f,
                by_own_height = 0.f;
    if constexpr (K == BoxKind::kGIoU) {
      const float hull = hull_width * hull_height, per_hull = 1.f / (hull + kEps);
      loss[j] = 1.f - overlap * per_all + (hull - all) * per_hull;
      b = overlap * per_all * per_all - per_hull;
      a = -per_all - b;
      const float c = (all + kEps) * per_hull * per_hull;
      by_hull_width = c * hull_height, by_hull_height = c * hull_width;
    } else {
      loss[j] = 1.f - overlap * per_all;
      b = overlap * per_all * per_all;
      a = -per_all - b;
    }
    const float own_width = x2 - x1, own_height = y2 - y1, other_width = s2 - s1, other_height = t2 - t1;
    const float x = ((x1 - s1) + (x2 - s2)) / 2.f, y = ((y1 - t1) + (y2 - t2)) / 2.f;
    if constexpr (K == BoxKind::kDIoU || K == BoxKind::kCIoU || K == BoxKind::kEIoU) {
      const float without = loss[j];
      const float distance = x * x + y * y, per = 1.f / (hull_width * hull_width + hull_height * hull_height + kEps);
      loss[j] += distance * per;
      by_x = 2.f * x * per, by_y = 2.f * y * per;
      by_hull_width = -2.f * hull_width * distance * per * per;
      by_hull_height = -2.f * hull_height * distance * per * per;
      if constexpr (K == BoxKind::kCIoU) {
        constexpr float kTwoPerPi = 0.636619772f;
        const float own = own_height + kEps;
        const float angle = std::atan2(other_width, other_height + kEps) - std::atan2(own_width, own);
        const float shape = kTwoPerPi * kTwoPerPi * angle * angle;
        const float share = shape / (without + shape + kEps);
        const float slope = -2.f * kTwoPerPi * kTwoPerPi * angle * share / (own_width * own_width + own * own);
        loss[j] += share * shape;
        by_own_width = slope * own, by_own_height = -slope * own_width;
      } else if constexpr (K == BoxKind::kEIoU) {
        const float dw = own_width - other_width, dh = own_height - other_height;
        const float per_w = 1.f / (hull_width * hull_width + kEps), per_h = 1.f / (hull_height * hull_height + kEps);
        loss[j] += dw * dw * per_w + dh * dh * per_h;
        by_own_width = 2.f * dw * per_w, by_own_height = 2.f * dh * per_h;
        by_hull_width -= 2.f * hull_width * dw * dw * per_w * per_w;
        by_hull_height -= 2.f * hull_height * dh * dh * per_h * per_h;
      }
    } else if constexpr (K == BoxKind::kSIoU) {
      const float size_x = x < 0.f ? -x : x, size_y = y < 0.f ? -y : y;
      const float per_square = 1.f / (x * x + y * y + kEps);
      const float slant = 2.f * size_x * size_y * per_square, power = slant - 2.f;
      const float per_w = 1.f / (hull_width * hull_width + kEps), per_h = 1.f / (hull_height * hull_height + kEps);
      const float part_x = x * x * per_w, part_y = y * y * per_h;
      const float exp_x = std::exp(power * part_x), exp_y = std::exp(power * part_y);
      float shape_w, shape_h;
      const float shape = unlike_sides(own_width, other_width, shape_w) + unlike_sides(own_height, other_height, shape_h);
      loss[j] += ((1.f - exp_x) + (1.f - exp_y) + shape) / 2.f;
      const float by_slant = -(exp_x * part_x + exp_y * part_y) / 2.f;
      const float sign_x = x > 0.f ? 1.f : x < 0.f ? -1.f : 0.f, sign_y = y > 0.f ? 1.f : y < 0.f ? -1.f : 0.f;
      by_x = by_slant * 2.f * per_square * (sign_x * size_y - slant * x) - exp_x * power * x * per_w;
      by_y = by_slant * 2.f * per_square * (sign_y * size_x - slant * y) - exp_y * power * y * per_h;
      by_hull_width = exp_x * power * part_x * hull_width * per_w;
      by_hull_height = exp_y * power * part_y * hull_height * per_h;
      by_own_width = shape_w / 2.f, by_own_height = shape_h / 2.f;
    }
    const float by_width = raw_width < 0.f ? 0.f : a * height, by_height = raw_height < 0.f ? 0.f : a * width;
    grad[0][j] = -by_width * above(x1, s1) - b * own_height - by_hull_width * above(s1, x1);
    grad[1][j] = -by_height * above(y1, t1) - b * own_width - by_hull_height * above(t1, y1);
    grad[2][j] = by_width * above(s2, x2) + b * own_height + by_hull_width * above(x2, s2);
    grad[3][j] = by_height * above(t2, y2) + b * own_width + by_hull_height * above(y2, t2);
    if constexpr (K != BoxKind::kGIoU && K != BoxKind::kIoU) {
      grad[0][j] += by_x / 2.f - by_own_width, grad[1][j] += by_y / 2.f - by_own_height;
      grad[2][j] += by_x / 2.f + by_own_width, grad[3][j] += by_y / 2.f + by_own_height;
    }
  }
}

FOCALDET_CLONES void box_block_of(BoxKind kind, const float (*box)[kPairs], const float (*target)[kPairs], int n,
                                  float* loss, float (*grad)[kPairs]) {
  switch (kind) {
    case BoxKind::kGIoU: box_block<BoxKind::kGIoU>(box, target, n, loss, grad); break;
    case BoxKind::kIoU: box_block<BoxKind::kIoU>(box, target, n, loss, grad); break;
    case BoxKind::kDIoU: box_block<BoxKind::kDIoU>(box, target, n, loss, grad); break;
    case BoxKind::kCIoU: box_block<BoxKind::kCIoU>(box, target, n, loss, grad); break;
    case BoxKind::kEIoU: box_block<BoxKind::kEIoU>(box, target, n, loss, grad); break;
    case BoxKind::kSIoU: box_block<BoxKind::kSIoU>(box, target, n, loss, grad); break;
  }
}

struct Pass {
  BoxKind kind;
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
      box_block_of(kind, box, target, n, loss, slope);
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
                const MaybeTensor& normalizer, const MaybeTensor& grad_scale, int64_t kind, double scale, bool reduce) {
  STD_TORCH_CHECK(0 <= kind && kind <= 5, "expected a kind in 0 .. 5");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_contiguous(), "boxes: expected contiguous (N, 4)");
  STD_TORCH_CHECK(targets.numel() == boxes.numel() && targets.is_contiguous(), "target boxes: expected contiguous (N, 4)");
  const int64_t pairs = boxes.size(0);
  const double factor = factor_of(scale, normalizer);
  Pass pass{static_cast<BoxKind>(kind), dtype_of(boxes, "boxes"), dtype_of(targets, "target boxes"), boxes.const_data_ptr(),
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

std::tuple<Tensor, Tensor> paired_box_loss(Tensor boxes, Tensor targets, MaybeTensor weight, MaybeTensor normalizer,
                                            MaybeTensor grad_scale, int64_t kind, double scale, bool reduce, bool needs_grad) {
  Tensor grad = needs_grad ? empty_grad(boxes) : empty(boxes, {0}, boxes.scalar_type());
  Tensor loss = run_pass(boxes, needs_grad ? grad.mutable_data_ptr() : nullptr, targets, weight, normalizer, grad_scale,
                         kind, scale, reduce);
  return {loss, grad};
}

// The same with the derivative written over the boxes.
Tensor paired_box_loss_inplace(Tensor boxes, Tensor targets, MaybeTensor weight, MaybeTensor normalizer,
                                MaybeTensor grad_scale, int64_t kind, double scale, bool reduce) {
  return run_pass(boxes, boxes.mutable_data_ptr(), targets, weight, normalizer, grad_scale, kind, scale, reduce);
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("paired_box_loss", TORCH_BOX(&focaldet::paired_box_loss));
  library.impl("paired_box_loss_inplace", TORCH_BOX(&focaldet::paired_box_loss_inplace));
}
