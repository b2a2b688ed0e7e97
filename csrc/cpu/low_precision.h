// Conversions between low precision and the numbers that are computed with.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>

#include "../scalar_math.h"
#include "clones.h"

namespace hcnn_fast {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// One bfloat16 as the float whose upper half it is; written so that compilers vectorise it.
HCNN_FAST_HD float widen(BFloat16 g) {
  const uint32_t bits = static_cast<uint32_t>(g.x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The nearest bfloat16, ties to even.
HCNN_FAST_HD uint16_t narrow(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(v == v ? rounded : 0x7FC0u);
}
HCNN_FAST_HD float widen(Half g) {
  return static_cast<float>(g);
}
HCNN_FAST_HD float widen(float g) {
  return g;
}
HCNN_FAST_HD double widen(double g) {
  return g;
}

namespace {

[[maybe_unused]] HCNN_FAST_CLONES void widen_row(const BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = widen(from[i]);
  }
}

[[maybe_unused]] void widen_row(const Half* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = widen(from[i]);
  }
}

[[maybe_unused]] HCNN_FAST_CLONES void narrow_row(const float* from, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i].x = narrow(from[i]);
  }
}

template <typename T, typename C>
void narrow_row(const T* from, C* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<C>(static_cast<float>(from[i]));
  }
}

}  // namespace
}  // namespace hcnn_fast
