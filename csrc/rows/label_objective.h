// The objective of one row of logits and its gradient, for any group of workers; in float64.
#pragma once

#include <cmath>
#include <limits>

#include "group.h"

namespace hcnn_fast {

enum class Kind {
  probability,
  log_probability,
  cross_entropy,
  log_odds,
  margin,
  negative_entropy,
};

template <typename T, typename V>
struct ObjectiveArguments {
  const T* logits;        // [B, C]
  const int64_t* labels;  // [B]
  V* value;               // [B]
  T* gradient;            // [B, C]
  int64_t classes;
  Kind kind;
  double order;
};

// Value and factor of an objective of the log odds o: its gradient is the factor times that of o.
struct OddsObjective {
  double value, factor;
};

HCNN_FAST_HD OddsObjective of_log_odds(Kind kind, double odds) {
  if (kind == Kind::log_probability) {
    return {log_sigmoid(odds), sigmoid(-odds)};
  }
  if (kind == Kind::cross_entropy) {
    return {-log_sigmoid(odds), -sigmoid(-odds)};
  }
  if (kind == Kind::probability) {
    return {sigmoid(odds), sigmoid(odds) * sigmoid(-odds)};
  }
  return {odds, 1.0};
}

// Shannon's form stands for all orders this near to 1, where Renyi's quotient loses its digits.
HCNN_FAST_HD bool is_shannon(double order) {
  return order > 1.0 - 1e-7 && order < 1.0 + 1e-7;
}

// One row, entry(k) its logits in float64 and write(k, slope) its gradient; returns the value.
template <typename Group, typename Entry, typename Write>
HCNN_FAST_HD double label_row(
    const Group& group,
    Kind kind,
    int64_t label,
    int64_t classes,
    const Entry& entry,
    const Write& write) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double own = entry(label);
  double rival = -infinity;
  bool not_a_number = false;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    const double z = entry(k);
    rival = k != label && z > rival ? z : rival;
    not_a_number |= z != z;
  }
  rival = group.max(rival);
  if (kind == Kind::margin) {
    int64_t from_end = 0;  // classes - index of the first rival
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      const bool top = k != label && entry(k) == rival;
      from_end = top && classes - k > from_end ? classes - k : from_end;
    }
    const int64_t first = classes - group.max(from_end);
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      const double slope = k == label ? 1.0 : (k == first ? -1.0 : 0.0);
      write(k, classes > 1 ? slope : 0.0);
    }
    return group.any(not_a_number) ? std::numeric_limits<double>::quiet_NaN() : own - rival;
  }
  double total = 0.0;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    total += k == label ? 0.0 : exp_nonpositive(entry(k) - rival);
  }
  total = group.sum(total);
  const double odds = (own - rival) - std::log(total);
  const OddsObjective objective = of_log_odds(kind, odds);
  const double share = classes > 1 ? -objective.factor / total : 0.0;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    const double e = k == label ? 0.0 : exp_nonpositive(entry(k) - rival);
    write(k, k == label ? (classes > 1 ? objective.factor : 0.0) : share * e);
  }
  return objective.value;
}

// -H of one row, Shannon for order 1, Renyi otherwise; closed forms and limits of the order.
template <typename Group, typename Entry, typename Write>
HCNN_FAST_HD double entropy_row(
    const Group& group,
    double order,
    int64_t classes,
    const Entry& entry,
    const Write& write) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double top = -infinity;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    const double z = entry(k);
    top = z > top ? z : top;
  }
  top = group.max(top);
  const auto raised = [&](int64_t k) { return exp_nonpositive(entry(k) - top); };
  double total = 0.0;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    total += raised(k);
  }
  total = group.sum(total);
  const double log_total = std::log(total);
  if (is_shannon(order)) {
    double value = 0.0;
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      const double f = raised(k) / total;
      value += f > 0.0 ? f * (entry(k) - top - log_total) : f;
    }
    value = group.sum(value);
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      const double f = raised(k) / total;
      write(k, f > 0.0 ? f * (entry(k) - top - log_total - value) : f);
    }
    return value;
  }
  if (order == 0.0) {
    double possible = 0.0;
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      possible += raised(k) > 0.0 ? 1.0 : 0.0;
      write(k, 0.0);
    }
    return -std::log(group.sum(possible) + (total - total));  // NaN for a row that is no number
  }
  if (order == infinity) {
    int64_t from_end = 0;  // classes - index of the first largest
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      from_end = entry(k) == top && classes - k > from_end ? classes - k : from_end;
    }
    const int64_t first = classes - group.max(from_end);
    for (int64_t k = group.rank(); k < classes; k += group.size()) {
      write(k, (k == first ? 1.0 : 0.0) - raised(k) / total);
    }
    return -log_total;
  }
  double power_total = 0.0;
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    power_total += exp_nonpositive(order * (entry(k) - top));
  }
  power_total = group.sum(power_total);
  const double factor = order / (order - 1.0);
  for (int64_t k = group.rank(); k < classes; k += group.size()) {
    const double escort = exp_nonpositive(order * (entry(k) - top)) / power_total;
    write(k, factor * (escort - raised(k) / total));
  }
  return (std::log(power_total) - order * log_total) / (order - 1.0);
}

template <typename Group, typename T, typename V>
HCNN_FAST_HD void objective_row(const Group& group, const ObjectiveArguments<T, V>& a, int64_t b) {
  const T* z = a.logits + b * a.classes;
  T* gradient = a.gradient + b * a.classes;
  const auto entry = [&](int64_t k) { return static_cast<double>(static_cast<V>(z[k])); };
  const auto write = [&](int64_t k, double slope) {
    gradient[k] = static_cast<T>(static_cast<V>(slope));
  };
  const double value = a.kind == Kind::negative_entropy
                           ? entropy_row(group, a.order, a.classes, entry, write)
                           : label_row(group, a.kind, a.labels[b], a.classes, entry, write);
  if (group.rank() == 0) {
    a.value[b] = static_cast<V>(value);
  }
}

}  // namespace hcnn_fast
