// Blocks of float, bfloat16 or float16 in memory <-> float buffers. Rounding is to nearest even; NaN stays NaN.
#pragma once

#include <cstdint>

namespace focaldet {

enum class Dtype { kFloat, kBFloat16, kHalf };

void load_block(Dtype dtype, const void* source, int64_t offset, int n, float* to);
void store_block(Dtype dtype, void* target, int64_t offset, int n, const float* from);

// One value.
float load_one(Dtype dtype, const void* source, int64_t offset);

}  // namespace focaldet
