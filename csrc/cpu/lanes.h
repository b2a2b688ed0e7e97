// Sums in float64 over fixed lanes, so that the order does not hang on the vector width.
#pragma once

#include <cstdint>

#include "../scalar_math.h"
#include "clones.h"

namespace hcnn_fast {

constexpr int64_t kLanes = 8;

template <typename Term>
HCNN_FAST_HD double lane_sum(int64_t elements, const Term& term) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= elements; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] += term(i + j);
    }
  }
  for (; i < elements; ++i) {
    lanes[i % kLanes] += term(i);
  }
  double total = 0.0;
  for (double lane : lanes) {
    total += lane;
  }
  return total;
}

namespace {

[[maybe_unused]] HCNN_FAST_CLONES double sum(const double* v, int64_t count) {
  return lane_sum(count, [&](int64_t i) { return v[i]; });
}

}  // namespace
}  // namespace hcnn_fast
