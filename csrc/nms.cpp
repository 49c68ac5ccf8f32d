// Class-aware non-maximum suppression: the best boxes that overlap no better one of their class by more than a limit.
//
// A box is only compared with kept boxes of its class, and the work ends with the last requested box: a thousand boxes of
// 80 classes take some ten thousand overlaps instead of half a million. Once a class has many kept boxes, they are looked
// up by position, so that the work grows with the number of boxes. The arithmetic is that of torchvision's nms, in
// float32, so the decisions are the same.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "tensors.h"

namespace focaldet {
namespace {

constexpr size_t kMany = 256;       // from this many kept boxes of a class on, they are looked up by position
constexpr double kMostCells = 64;   // per box; a box that covers more is compared with all
constexpr double kMostPlace = 1e9;  // cells from the origin

struct Columns {  // a column for each side, so that overlaps with all boxes are vectorised
  std::vector<float> x1, y1, x2, y2, area;

  void add(const float* b, float box_area) {
    x1.push_back(b[0]), y1.push_back(b[1]), x2.push_back(b[2]), y2.push_back(b[3]);
    area.push_back(box_area);
  }

  bool any_overlaps(const float* box, float box_area, float limit) const {
    int found = 0;
    for (size_t k = 0; k < area.size(); ++k) {
      const float width = std::min(x2[k], box[2]) - std::max(x1[k], box[0]);
      const float height = std::min(y2[k], box[3]) - std::max(y1[k], box[1]);
      const float overlap = (width > 0.f ? width : 0.f) * (height > 0.f ? height : 0.f);
      found |= overlap / (area[k] + box_area - overlap) > limit ? 1 : 0;
    }
    return found != 0;
  }
};

class Kept {  // the kept boxes of a class
 public:
  bool any_overlaps(const float* box, float box_area, float limit) const {
    Cells cells;
    if (side_ == 0 || !covered(box, &cells)) return all_.any_overlaps(box, box_area, limit);
    if (large_.any_overlaps(box, box_area, limit)) return true;
    for (int64_t y = cells.top; y <= cells.bottom; ++y)
      for (int64_t x = cells.left; x <= cells.right; ++x) {
        const auto place = places_.find(key(x, y));
        if (place != places_.end() && place->second.any_overlaps(box, box_area, limit)) return true;
      }
    return false;
  }

  void add(const float* box, float box_area) {
    all_.add(box, box_area);
    if (side_ > 0) {
      put(box, box_area);
    } else if (all_.area.size() == kMany) {
      begin_places();
    }
  }

 private:
  struct Cells {
    int64_t left, top, right, bottom;
  };

  static int64_t key(int64_t x, int64_t y) { return x * 4294967291 + y; }  // two cells with one key are both searched

  // Two overlapping boxes share a cell. False for a box with too many cells, or one that is not finite.
  bool covered(const float* box, Cells* cells) const {
    double place[4];
    for (int i = 0; i < 4; ++i) {
      place[i] = std::floor(box[i] / side_);
      if (!(std::fabs(place[i]) < kMostPlace)) return false;
    }
    if (!((place[2] - place[0] + 1) * (place[3] - place[1] + 1) <= kMostCells)) return false;
    *cells = {static_cast<int64_t>(place[0]), static_cast<int64_t>(place[1]), static_cast<int64_t>(place[2]),
              static_cast<int64_t>(place[3])};
    return true;
  }

  void put(const float* box, float box_area) {
    Cells cells;
    if (!covered(box, &cells)) return large_.add(box, box_area);
    for (int64_t y = cells.top; y <= cells.bottom; ++y)
      for (int64_t x = cells.left; x <= cells.right; ++x) places_[key(x, y)].add(box, box_area);
  }

  void begin_places() {  // a cell's side is the median of the boxes' longer sides
    std::vector<float> sides(kMany);
    for (size_t k = 0; k < kMany; ++k) {
      const float side = std::max(all_.x2[k] - all_.x1[k], all_.y2[k] - all_.y1[k]);
      sides[k] = std::isfinite(side) ? side : 0.f;
    }
    std::nth_element(sides.begin(), sides.begin() + kMany / 2, sides.end());
    side_ = std::max(1e-3, static_cast<double>(sides[kMany / 2]));
    for (size_t k = 0; k < kMany; ++k) {
      const float box[4] = {all_.x1[k], all_.y1[k], all_.x2[k], all_.y2[k]};
      put(box, all_.area[k]);
    }
  }

  Columns all_, large_;
  double side_ = 0;
  std::unordered_map<int64_t, Columns> places_;
};

// boxes (N, 4), scores and labels (N,): indices of the remaining boxes, best first, at most `most`; of equal scores, the
// first is better.
Tensor suppress_by_class(Tensor boxes, Tensor scores, Tensor labels, double iou, int64_t most) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.is_contiguous(), "boxes: expected contiguous (N, 4)");
  STD_TORCH_CHECK(dtype_of(boxes, "boxes") == Dtype::kFloat, "boxes: expected float32");
  const int64_t count = boxes.size(0);
  const Floats score(scores, "scores", count);
  const int64_t* label = labels_of(labels, "labels", count);
  const float* box = static_cast<const float*>(boxes.const_data_ptr());
  float limit = static_cast<float>(iou);  // a float is above iou where it is above the largest float that is not
  if (static_cast<double>(limit) > iou) limit = std::nextafter(limit, -INFINITY);

  std::vector<std::pair<float, int64_t>> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = {std::isnan(score[i]) ? -INFINITY : score[i], i};
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });

  std::unordered_map<int64_t, Kept> classes;
  std::vector<int64_t> keep;
  for (const auto& [_, i] : order) {
    if (static_cast<int64_t>(keep.size()) >= most) break;
    const float* b = box + 4 * i;
    const float area = (b[2] - b[0]) * (b[3] - b[1]);
    Kept& kept = classes[label[i]];
    if (kept.any_overlaps(b, area, limit)) continue;
    kept.add(b, area);
    keep.push_back(i);
  }
  Tensor result = empty(labels, {static_cast<int64_t>(keep.size())}, torch::headeronly::ScalarType::Long);
  std::copy(keep.begin(), keep.end(), static_cast<int64_t*>(result.mutable_data_ptr()));
  return result;
}

}  // namespace
}  // namespace focaldet

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, library) {
  library.impl("suppress_by_class", TORCH_BOX(&focaldet::suppress_by_class));
}
