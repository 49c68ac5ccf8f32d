// Class-aware non-maximum suppression: the best boxes that overlap no better one of their class by more than a limit.
//
// Only boxes of a class are compared, with what of it was kept, and the work ends with the last box that is wanted:
// a thousand boxes of 80 classes take some ten thousand overlaps instead of half a million. The arithmetic is that of
// torchvision's nms, in float32, so the decisions are the same.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "tensors.h"

namespace focaldet {
namespace {

struct Kept {  // of a class: a column for each side, so that overlaps with all of them are computed side by side
  std::vector<float> x1, y1, x2, y2, area;

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

// boxes (N, 4), scores and labels (N,): indices of those that stay, best first, at most `most`; of equal scores the
// first one is the better.
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
    kept.x1.push_back(b[0]), kept.y1.push_back(b[1]), kept.x2.push_back(b[2]), kept.y2.push_back(b[3]);
    kept.area.push_back(area);
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
