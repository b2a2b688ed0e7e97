// The hash of an image's values and the points drawn under a key made of it.
#pragma once

#include <cstring>
#include <type_traits>

#include "../philox.h"
#include "group.h"

namespace hcnn_fast {

template <typename Group, typename T>
HCNN_FAST_HD uint64_t hash_row(const Group& group, const T* x, int64_t elements) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  uint64_t total = 0;
  for (int64_t i = group.rank(); i < elements; i += group.size()) {
    const T value = x[i] + T(0);  // -0.0 becomes 0.0
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    total += hash_share(bits, static_cast<uint64_t>(i));
  }
  return group.sum(total);
}

template <typename T>
struct StartArguments {
  const T* image;              // [N, elements]
  const int64_t* image_hash;   // [N]
  const int64_t* image_index;  // [B]
  const int64_t* label;        // [B]
  const int64_t* start;        // [B]
  uint64_t seed;
  T radius, lower, upper;
  int64_t elements;
  T* point;  // [B, elements]
};

template <typename Group, typename T>
HCNN_FAST_HD void start_row(const Group& group, const StartArguments<T>& a, int64_t b) {
  const T* x = a.image + a.image_index[b] * a.elements;
  T* z = a.point + b * a.elements;
  if (a.start[b] == 0) {
    for (int64_t i = group.rank(); i < a.elements; i += group.size()) {
      z[i] = clip(x[i], a.lower, a.upper);
    }
    return;
  }
  const uint64_t key = start_key(static_cast<uint64_t>(a.image_hash[a.image_index[b]]), a.seed);
  const auto label = static_cast<uint32_t>(a.label[b]);
  const auto start = static_cast<uint32_t>(a.start[b]);
  for (int64_t block = group.rank(); block * 4 < a.elements; block += group.size()) {
    const PhiloxWords random = philox(static_cast<uint32_t>(block), label, start, 0, key);
    for (int64_t i = block * 4; i < a.elements && i < block * 4 + 4; ++i) {
      const T lower = ball_lower(x[i], a.radius, a.lower);
      const T upper = ball_upper(x[i], a.radius, a.upper);
      const T v = lower + uniform<T>(random.word[i % 4]) * (upper - lower);
      z[i] = v < upper ? v : upper;
    }
  }
}

}  // namespace hcnn_fast
