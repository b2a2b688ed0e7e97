// label_objective on the CPU, in float64 and rounded once to the type of the result.
// Results are compared within a tolerance, not to the bit: fused multiply-adds may be used, here
// and in the rows of odds_rows.h.
#pragma GCC optimize("fp-contract=fast")

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../operations/label_objective.h"
#include "clones.h"
#include "lanes.h"
#include "odds_rows.h"

namespace hcnn_fast {
namespace {

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

// Rows [begin, end).
template <typename T, typename V>
void run(const ObjectiveArguments<T, V>& a, int64_t begin, int64_t end) {
  const int64_t classes = a.classes;
  if constexpr (std::is_same_v<V, float>) {
    const bool of_odds = a.kind != Kind::margin && a.kind != Kind::negative_entropy;
    if (of_odds && classes > 1) {
      return run_odds(a, begin, end);
    }
  }
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
}

constexpr auto objective_rows = [](const auto& arguments, const ObjectiveTensors& tensors) {
  const int64_t grain = std::max<int64_t>(1, 4096 / arguments.classes);
  torch::stable::parallel_for(0, tensors.logits.size(0), grain, [&](int64_t begin, int64_t end) {
    run(arguments, begin, end);
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective<hcnn_fast::objective_rows>));
}
