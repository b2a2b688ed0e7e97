// Objectives of the log odds for results that are rounded to float32: rows of few classes in
// groups, rows of many one by one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "../rows/label_objective.h"
#include "clones.h"
#include "lanes.h"
#include "low_precision.h"

namespace hcnn_fast {
namespace {

// Rows of few classes go through in groups, a row to a vector lane: loops over 10 classes would
// leave the vectors half empty, and each row would wait for its own logarithm.
constexpr int64_t kRows = 16;
constexpr int64_t kFewClasses = 64;

struct RowGroup {
  int64_t classes;
  double z[kFewClasses * kRows];  // [classes, kRows], then the gradient
  int64_t label[kRows];
  double value[kRows];
};

// Objectives of the log odds, as `label_row`; only for results that are rounded to float32.
HCNN_FAST_CLONES void label_rows(Kind kind, RowGroup& group) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double own[kRows], rival[kRows], total[kRows], share[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    own[r] = 0.0;
    rival[r] = -infinity;
    total[r] = 0.0;
  }
  for (int64_t k = 0; k < group.classes; ++k) {
    const double* z = group.z + k * kRows;
    for (int64_t r = 0; r < kRows; ++r) {
      const bool chosen = group.label[r] == k;
      own[r] = chosen ? z[r] : own[r];
      const double other = chosen ? -infinity : z[r];
      rival[r] = other > rival[r] ? other : rival[r];
    }
  }
  for (int64_t k = 0; k < group.classes; ++k) {
    double* z = group.z + k * kRows;
    for (int64_t r = 0; r < kRows; ++r) {
      const double e = exp_nonpositive_to_float(z[r] - rival[r]);
      z[r] = group.label[r] == k ? 0.0 : e;
      total[r] += z[r];
    }
  }
  double odds[kRows], log_own[kRows], p[kRows], q[kRows];  // log F_l, F_l and 1 - F_l
  for (int64_t r = 0; r < kRows; ++r) {
    odds[r] = (own[r] - rival[r]) - log_from_one(total[r]);
    const double size = odds[r] < 0.0 ? -odds[r] : odds[r];
    const double e = exp_nonpositive_to_float(-size);
    const double likely = 1.0 / (1.0 + e);  // sigmoid(|odds|)
    const double unlikely = e * likely;
    log_own[r] = (odds[r] < 0.0 ? odds[r] : 0.0) - log1p_unit(e);
    p[r] = odds[r] < 0.0 ? unlikely : likely;
    q[r] = odds[r] < 0.0 ? likely : unlikely;
  }
  double factor[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    switch (kind) {
      case Kind::log_probability:
        group.value[r] = log_own[r];
        factor[r] = q[r];
        break;
      case Kind::cross_entropy:
        group.value[r] = -log_own[r];
        factor[r] = -q[r];
        break;
      case Kind::probability:
        group.value[r] = p[r];
        factor[r] = p[r] * q[r];
        break;
      default:
        group.value[r] = odds[r];
        factor[r] = 1.0;
    }
    share[r] = -factor[r] / total[r];
  }
  for (int64_t k = 0; k < group.classes; ++k) {
    double* z = group.z + k * kRows;
    for (int64_t r = 0; r < kRows; ++r) {
      z[r] = group.label[r] == k ? factor[r] : share[r] * z[r];
    }
  }
}

template <typename T, typename V>
void run_groups(const ObjectiveArguments<T, V>& a, int64_t begin, int64_t end) {
  RowGroup group;
  group.classes = a.classes;
  for (int64_t first = begin; first < end; first += kRows) {
    const int64_t rows = std::min(kRows, end - first);
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t b = first + std::min(r, rows - 1);  // the last row fills up the group
      group.label[r] = a.labels[b];
      for (int64_t k = 0; k < a.classes; ++k) {
        group.z[k * kRows + r] = static_cast<double>(static_cast<V>(a.logits[b * a.classes + k]));
      }
    }
    label_rows(a.kind, group);
    for (int64_t r = 0; r < rows; ++r) {
      a.value[first + r] = static_cast<V>(group.value[r]);
      for (int64_t k = 0; k < a.classes; ++k) {
        a.gradient[(first + r) * a.classes + k] =
            static_cast<T>(static_cast<V>(group.z[k * kRows + r]));
      }
    }
  }
}

// Rows of many classes keep their float32 logits: conversions happen in the vector loops.

// Largest of a row, or NaN. The bits of floats order like signed integers once those of negative
// numbers are turned round, and integer maxima vectorise.
HCNN_FAST_CLONES float largest_float(const float* z, int64_t count) {
  int32_t most = std::numeric_limits<int32_t>::min();
  for (int64_t k = 0; k < count; ++k) {
    int32_t bits;
    std::memcpy(&bits, z + k, sizeof(bits));
    bits ^= (bits >> 31) & 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  most ^= (most >> 31) & 0x7FFFFFFF;
  float result;
  std::memcpy(&result, &most, sizeof(result));
  return count > 0 ? result : -std::numeric_limits<float>::infinity();
}

HCNN_FAST_CLONES void exponentiate(const float* z, double shift, double* e, int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) {
    e[k] = exp_nonpositive_to_float(static_cast<double>(z[k]) - shift);
  }
}

HCNN_FAST_CLONES void scale_row(const double* e, double share, float* slope, int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) {
    slope[k] = static_cast<float>(share * e[k]);
  }
}

// As `label_row`, for the objectives of the log odds.
double wide_row(
    Kind kind,
    const float* z,
    int64_t label,
    int64_t classes,
    double* e,
    float* slope) {
  const float before = largest_float(z, label);
  const float after = largest_float(z + label + 1, classes - label - 1);
  const double rival = before != before || before > after ? before : after;
  exponentiate(z, rival, e, classes);
  e[label] = 0.0;
  const double total = sum(e, classes);
  const double own = static_cast<double>(z[label]);
  const OddsObjective objective = of_log_odds(kind, (own - rival) - std::log(total));
  scale_row(e, -objective.factor / total, slope, classes);
  slope[label] = static_cast<float>(objective.factor);
  return objective.value;
}

template <typename T>
void run_wide(const ObjectiveArguments<T, float>& a, int64_t begin, int64_t end) {
  constexpr bool direct = std::is_same_v<T, float>;
  thread_local std::vector<double> exponentials;
  thread_local std::vector<float> converted;
  const int64_t classes = a.classes;
  exponentials.resize(static_cast<size_t>(classes));
  converted.resize(direct ? 0 : static_cast<size_t>(2 * classes));
  for (int64_t b = begin; b < end; ++b) {
    if constexpr (direct) {
      const float* z = a.logits + b * classes;
      float* slope = a.gradient + b * classes;
      a.value[b] =
          static_cast<float>(wide_row(a.kind, z, a.labels[b], classes, exponentials.data(), slope));
    } else {
      float* z = converted.data();
      float* slope = z + classes;
      widen_row(a.logits + b * classes, z, classes);
      a.value[b] =
          static_cast<float>(wide_row(a.kind, z, a.labels[b], classes, exponentials.data(), slope));
      narrow_row(slope, a.gradient + b * classes, classes);
    }
  }
}

// Rows [begin, end) of more than one class.
template <typename T>
void run_odds(const ObjectiveArguments<T, float>& a, int64_t begin, int64_t end) {
  if (a.classes <= kFewClasses) {
    run_groups(a, begin, end);
  } else {
    run_wide(a, begin, end);
  }
}

}  // namespace
}  // namespace hcnn_fast
