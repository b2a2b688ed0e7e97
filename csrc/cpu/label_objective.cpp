// label_objective on the CPU: one row at a time in float64, rounded once.
// Its sums are rounded to float32, not compared to the bit: fused multiply-adds may be used.
#pragma GCC optimize("fp-contract=fast")

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../arguments.h"
#include "clones.h"
#include "low_precision.h"

namespace hcnn_fast {
namespace {

constexpr int64_t kLanes = 8;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

HCNN_FAST_CLONES void shift_and_exponentiate(
    const double* z,
    double factor,
    double shift,
    double* e,
    int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) {
    e[k] = exp_nonpositive(factor * (z[k] - shift));
  }
}

HCNN_FAST_CLONES double sum(const double* v, int64_t count) {
  double lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] += v[k + j];
    }
  }
  for (; k < count; ++k) {
    lanes[k % kLanes] += v[k];
  }
  double total = 0.0;
  for (int64_t j = 0; j < kLanes; ++j) {
    total += lanes[j];
  }
  return total;
}

HCNN_FAST_CLONES double largest(const double* v, int64_t count) {
  double lanes[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    lanes[j] = -kInfinity;
  }
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] = v[k + j] > lanes[j] ? v[k + j] : lanes[j];
    }
  }
  for (; k < count; ++k) {
    lanes[k % kLanes] = v[k] > lanes[k % kLanes] ? v[k] : lanes[k % kLanes];
  }
  double result = -kInfinity;
  for (int64_t j = 0; j < kLanes; ++j) {
    result = lanes[j] > result ? lanes[j] : result;
  }
  return result;
}

int64_t first_equal(const double* v, int64_t count, double target) {
  int64_t k = 0;
  while (k + 1 < count && v[k] != target) {
    ++k;
  }
  return k;
}

// slope[k] = factor * (e_l - other softmax), given e[k] with e[l] = 0 and their sum.
HCNN_FAST_CLONES void label_slope(
    double* e,
    int64_t label,
    double factor,
    double total,
    int64_t classes) {
  const double share = classes > 1 ? -factor / total : 0.0;
  for (int64_t k = 0; k < classes; ++k) {
    e[k] *= share;
  }
  e[label] = classes > 1 ? factor : 0.0;
}

// Objectives of one label; everything follows from the log odds o = Z_l - log sum_k e^Z_k:
// F_l = sigmoid(o), and F_k is the softmax among the others times sigmoid(-o).
double label_row(Kind kind, double* z, double* e, int64_t label, int64_t classes) {
  const double own = z[label];
  z[label] = -kInfinity;
  const double rival = largest(z, classes);
  if (kind == Kind::margin) {
    const int64_t first = first_equal(z, classes, rival);
    bool not_a_number = own != own;  // which `largest` passes over
    for (int64_t k = 0; k < classes; ++k) {
      not_a_number |= z[k] != z[k];
      e[k] = 0.0;
    }
    if (classes > 1) {
      e[first] = -1.0;
      e[label] = 1.0;
    }
    return not_a_number ? std::numeric_limits<double>::quiet_NaN() : own - rival;
  }
  shift_and_exponentiate(z, 1.0, rival, e, classes);
  e[label] = 0.0;
  const double total = sum(e, classes);
  const OddsObjective objective = of_log_odds(kind, (own - rival) - std::log(total));
  label_slope(e, label, objective.factor, total, classes);
  return objective.value;
}

// -H of one row, Shannon for order 1, Renyi otherwise; closed forms and limits of the order.
double entropy_row(double order, const double* z, double* e, int64_t classes) {
  const double top = largest(z, classes);
  shift_and_exponentiate(z, 1.0, top, e, classes);
  const double total = sum(e, classes);
  const double log_total = std::log(total);
  if (is_shannon(order)) {
    double value = 0.0;
    for (int64_t k = 0; k < classes; ++k) {
      const double f = e[k] / total;
      value += f > 0.0 ? f * (z[k] - top - log_total) : f;
    }
    for (int64_t k = 0; k < classes; ++k) {
      const double f = e[k] / total;
      e[k] = f > 0.0 ? f * (z[k] - top - log_total - value) : f;
    }
    return value;
  }
  if (order == 0.0) {
    double possible = total - total;  // 0, or NaN for a row that is not a number
    for (int64_t k = 0; k < classes; ++k) {
      possible += e[k] > 0.0 ? 1.0 : 0.0;
      e[k] = 0.0;
    }
    return -std::log(possible);
  }
  if (std::isinf(order)) {
    const int64_t first = first_equal(z, classes, top);
    for (int64_t k = 0; k < classes; ++k) {
      e[k] = -e[k] / total;
    }
    e[first] += 1.0;
    return -log_total;
  }
  thread_local std::vector<double> power;
  power.resize(static_cast<size_t>(classes));
  shift_and_exponentiate(z, order, top, power.data(), classes);  // order * (z - top) <= 0
  const double power_total = sum(power.data(), classes);
  const double factor = order / (order - 1.0);
  for (int64_t k = 0; k < classes; ++k) {
    e[k] = factor * (power[static_cast<size_t>(k)] / power_total - e[k] / total);
  }
  return (std::log(power_total) - order * log_total) / (order - 1.0);
}

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
  double own[kRows], rival[kRows], total[kRows], share[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    own[r] = 0.0;
    rival[r] = -kInfinity;
    total[r] = 0.0;
  }
  for (int64_t k = 0; k < group.classes; ++k) {
    const double* z = group.z + k * kRows;
    for (int64_t r = 0; r < kRows; ++r) {
      const bool chosen = group.label[r] == k;
      own[r] = chosen ? z[r] : own[r];
      const double other = chosen ? -kInfinity : z[r];
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

template <typename T, typename V>
void run(const ObjectiveArguments<T, V>& a, int64_t rows) {
  const int64_t classes = a.classes;
  const int64_t grain = std::max<int64_t>(1, 4096 / classes);
  const bool of_odds = a.kind != Kind::margin && a.kind != Kind::negative_entropy;
  if constexpr (std::is_same_v<V, float>) {
    if (of_odds && classes > 1) {
      torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
        if (classes <= kFewClasses) {
          run_groups(a, begin, end);
        } else {
          run_wide(a, begin, end);
        }
      });
      return;
    }
  }
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<double> scratch;
    scratch.resize(static_cast<size_t>(2 * classes));
    double* row = scratch.data();
    double* e = row + classes;
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t k = 0; k < classes; ++k) {
        row[k] = static_cast<double>(static_cast<V>(a.logits[b * classes + k]));
      }
      const double v = a.kind == Kind::negative_entropy
                           ? entropy_row(a.order, row, e, classes)
                           : label_row(a.kind, row, e, a.labels[b], classes);
      a.value[b] = static_cast<V>(v);
      for (int64_t k = 0; k < classes; ++k) {
        a.gradient[b * classes + k] = static_cast<T>(static_cast<V>(e[k]));
      }
    }
  });
}

void label_objective(
    Tensor logits,
    Tensor labels,
    std::string kind,
    double order,
    Tensor value,
    Tensor gradient) {
  const Kind chosen = check_label_objective(logits, labels, kind, order, value, gradient);
  with_logit_type(logits, [&]<typename T>(T) {
    using V = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const ObjectiveArguments<T, V> arguments{
        data<const T>(logits),
        data<const int64_t>(labels),
        data<V>(value),
        data<T>(gradient),
        logits.size(1),
        chosen,
        order};
    run(arguments, logits.size(0));
  });
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective));
}
