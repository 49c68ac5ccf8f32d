// The inner loops of csrc/ without torch, for a processor that this machine emulates: reads float32 from the standard
// input and writes float32 to the standard output. test_neon.py says what comes in which order.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "half.h"
#include "sigmoid_blocks.h"
#include "softmax_blocks.h"

using namespace focaldet;

namespace {

std::vector<float> read(size_t n) {
  std::vector<float> x(n);
  if (std::fread(x.data(), sizeof(float), n, stdin) != n) std::exit(1);
  return x;
}

void write(const std::vector<float>& x) { std::fwrite(x.data(), sizeof(float), x.size(), stdout); }

}  // namespace

int main() {
  constexpr int kLogits = 500;
  const std::vector<float> z = read(kLogits), y = read(kLogits);
  std::vector<float> loss(kLogits), grad(kLogits);
  for (const Kind kind : {Kind::kFocal, Kind::kQualityFocal, Kind::kVarifocal, Kind::kMatchabilityAware, Kind::kIouAwareBce}) {
    for (const float gamma : {0.f, 0.5f, 1.f, 2.f, 3.f}) {
      const SigmoidSpec spec{kind, power_of(gamma), gamma, 1.f, 1.f, 0.f, 1.f};
      negative_block(spec, z.data(), kLogits, 1.f, loss.data(), grad.data());
      write(loss), write(grad);
      target_block(spec, z.data(), y.data(), kLogits, 1.f, loss.data(), grad.data());
      write(loss), write(grad);
    }
  }
  constexpr int kClasses = 21;
  const std::vector<float> rows = read(kLanes * kClasses), labels = read(kLanes), positions = read(kLanes);
  const std::vector<float> ones(kLanes, 1.f);
  std::vector<float> lanes(kLanes * kClasses), turned(kLanes * kClasses), row_loss(kLanes);
  const std::vector<int> label(labels.begin(), labels.end());
  for (const float gamma : {0.f, 0.5f, 1.f, 2.f, 3.f}) {
    const SoftmaxSpec spec{kClasses, power_of(gamma), gamma, 0.1f, kClasses, nullptr, 1.f};
    rows_to_lanes(rows.data(), kLanes, kClasses, lanes.data());
    focal_rows(spec, lanes.data(), label.data(), ones.data(), ones.data(), true, row_loss.data());
    lanes_to_rows(lanes.data(), kLanes, kClasses, turned.data());
    write(row_loss), write(turned);
  }
  const SoftmaxSpec spec{kClasses, Power::kZero, 0.f, 0.f, kClasses, nullptr, 2.f};
  rows_to_lanes(rows.data(), kLanes, kClasses, lanes.data());
  distribution_rows(spec, lanes.data(), positions.data(), ones.data(), ones.data(), true, row_loss.data());
  lanes_to_rows(lanes.data(), kLanes, kClasses, turned.data());
  write(row_loss), write(turned);
  std::vector<float> teacher(lanes.size()), ratio(lanes.size()), flipped(rows);
  for (int j = 0; j < kLanes; ++j)
    std::copy_n(&rows[j * kClasses], kClasses, &flipped[(kLanes - 1 - j) * kClasses]);
  rows_to_lanes(rows.data(), kLanes, kClasses, lanes.data());
  rows_to_lanes(flipped.data(), kLanes, kClasses, teacher.data());
  distillation_rows(spec, lanes.data(), teacher.data(), ratio.data(), ones.data(), ones.data(), row_loss.data());
  lanes_to_rows(lanes.data(), kLanes, kClasses, turned.data());
  write(row_loss), write(turned);
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kHalf}) {
    std::vector<uint16_t> half(kLogits);
    store_block(dtype, half.data(), 0, kLogits, z.data());
    load_block(dtype, half.data(), 0, kLogits, loss.data());
    write(loss);
  }
}
