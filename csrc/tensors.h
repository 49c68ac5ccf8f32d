// Shared by the operators: reading their tensor arguments, and sums that do not depend on the number of threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "half.h"

namespace focaldet {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& x, const char* name) {
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::Float: return Dtype::kFloat;
    case torch::headeronly::ScalarType::BFloat16: return Dtype::kBFloat16;
    case torch::headeronly::ScalarType::Half: return Dtype::kHalf;
    default: STD_TORCH_CHECK(false, name, ": expected float32, bfloat16 or float16");
  }
}

// A tensor that must be contiguous and have `numel` elements, or be absent.
struct Floats {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat;

  Floats() = default;
  Floats(const MaybeTensor& x, const char* name, int64_t numel) {
    if (!x.has_value()) return;
    STD_TORCH_CHECK(x->is_contiguous(), name, ": expected a contiguous tensor");
    STD_TORCH_CHECK(x->numel() == numel, name, ": expected ", numel, " elements, got ", x->numel());
    data = x->const_data_ptr();
    dtype = dtype_of(*x, name);
  }
  explicit operator bool() const { return data != nullptr; }
  float operator[](int64_t i) const {
    return dtype == Dtype::kFloat ? static_cast<const float*>(data)[i] : load_one(dtype, data, i);
  }
};

inline const int64_t* labels_of(const MaybeTensor& x, const char* name, int64_t numel) {
  if (!x.has_value()) return nullptr;
  STD_TORCH_CHECK(x->scalar_type() == torch::headeronly::ScalarType::Long, name, ": expected int64");
  STD_TORCH_CHECK(x->is_contiguous(), name, ": expected a contiguous tensor");
  STD_TORCH_CHECK(x->numel() == numel, name, ": expected ", numel, " elements, got ", x->numel());
  return static_cast<const int64_t*>(x->const_data_ptr());
}

// scale / normalizer, with the 0-d normalizer read here: the CPU has nothing to wait for.
inline double factor_of(double scale, const MaybeTensor& normalizer) {
  const Floats value(normalizer, "normalizer", 1);
  return value ? scale / static_cast<double>(value[0]) : scale;
}

// Factor of the stored derivative: scale / normalizer, or `grad_scale` if backward divides by it again. float16 cannot
// represent a derivative that was divided by many positives (the loss scale comes only in backward).
inline float grad_factor_of(double factor, const MaybeTensor& grad_scale) {
  const Floats value(grad_scale, "grad_scale", 1);
  return value ? value[0] : static_cast<float>(factor);
}

inline Tensor empty(const Tensor& like, std::vector<int64_t> size, torch::headeronly::ScalarType dtype) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(size.data(), size.size()), dtype);
}

// A tensor for the derivative of `like`. Touching the pages of a large one for the first time costs more than computing
// the values written there; pages of 2 MB, which Linux provides on request, avoid most of that cost.
inline Tensor empty_grad(const Tensor& like) {
  Tensor grad = torch::stable::empty_like(like);
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(grad.mutable_data_ptr());
  const uintptr_t end = (begin + grad.numel() * grad.element_size()) / kPage * kPage;
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // only advice: may fail
#endif
  return grad;
}

// Calls work(first, last) for stretches of [0, total) that do not depend on the number of threads, and adds their results
// in order: two runs give the same bits.
template <class Work>
double sum_in_order(int64_t total, int64_t stretch, const Work& work) {
  if (total <= stretch) return total > 0 ? work(int64_t{0}, total) : 0.0;
  std::vector<double> partial((total + stretch - 1) / stretch);
  torch::stable::parallel_for(0, partial.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) partial[k] = work(k * stretch, std::min((k + 1) * stretch, total));
  });
  double sum = 0;
  for (const double x : partial) sum += x;
  return sum;
}

inline Tensor scalar(const Tensor& like, double value) {
  Tensor result = empty(like, {}, torch::headeronly::ScalarType::Float);
  *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(value);
  return result;
}

}  // namespace focaldet
