// label_objective on the CPU: one row at a time in float64, rounded once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../checks.h"
#include "../scalar_math.h"
#include "clones.h"

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
double label_row(const std::string& kind, double* z, double* e, int64_t label, int64_t classes) {
  const double own = z[label];
  z[label] = -kInfinity;
  const double rival = largest(z, classes);
  if (kind == "margin") {
    const int64_t first = first_equal(z, classes, rival);
    bool not_a_number = false;  // which `largest` passes over
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
  const double odds = (own - rival) - std::log(total);
  double value = odds;
  double factor = 1.0;
  if (kind == "log_probability") {
    value = log_sigmoid(odds);
    factor = sigmoid(-odds);
  } else if (kind == "cross_entropy") {
    value = -log_sigmoid(odds);
    factor = -sigmoid(-odds);
  } else if (kind == "probability") {
    value = sigmoid(odds);
    factor = value * sigmoid(-odds);
  }
  label_slope(e, label, factor, total, classes);
  return value;
}

// -H of one row, Shannon for order 1, Renyi otherwise; closed forms and limits of the order.
double entropy_row(double order, const double* z, double* e, int64_t classes) {
  const double top = largest(z, classes);
  shift_and_exponentiate(z, 1.0, top, e, classes);
  const double total = sum(e, classes);
  const double log_total = std::log(total);
  if (std::fabs(order - 1.0) < 1e-7) {
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

template <typename T, typename V>
void run(
    const Tensor& logits,
    const Tensor& labels,
    const std::string& kind,
    double order,
    const Tensor& value,
    const Tensor& gradient) {
  const int64_t rows = logits.size(0);
  const int64_t classes = logits.size(1);
  const auto* z = static_cast<const T*>(logits.data_ptr());
  const auto* label = static_cast<const int64_t*>(labels.data_ptr());
  auto* out = static_cast<V*>(value.data_ptr());
  auto* slope = static_cast<T*>(gradient.data_ptr());
  const bool entropy = kind == "negative_entropy";
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, classes));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<double> scratch;
    scratch.resize(static_cast<size_t>(2 * classes));
    double* row = scratch.data();
    double* e = row + classes;
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t k = 0; k < classes; ++k) {
        row[k] = static_cast<double>(z[b * classes + k]);
      }
      const double v = entropy ? entropy_row(order, row, e, classes)
                               : label_row(kind, row, e, label[b], classes);
      out[b] = static_cast<V>(v);
      for (int64_t k = 0; k < classes; ++k) {
        slope[b * classes + k] = static_cast<T>(static_cast<V>(e[k]));
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
  check_defined(logits, "logits");
  STD_TORCH_CHECK(
      logits.dim() == 2 && logits.size(1) >= 1 && logits.is_contiguous(),
      "logits has shape ",
      describe(logits),
      ", expected a contiguous [B, C] with C >= 1");
  const int64_t rows = logits.size(0);
  const ScalarType dtype = logits.scalar_type();
  const ScalarType value_dtype =
      dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  check_vector(labels, "labels", rows, ScalarType::Long, logits);
  check_vector(value, "value", rows, value_dtype, logits);
  check_rows_like(gradient, "gradient", rows, logits);
  check_dtype(gradient, "gradient", dtype);
  STD_TORCH_CHECK(gradient.is_contiguous(), "gradient is not contiguous");
  check_separate(
      {span_of(gradient, "gradient"),
       span_of(value, "value"),
       span_of(logits, "logits"),
       span_of(labels, "labels")},
      2);
  if (kind == "negative_entropy") {
    STD_TORCH_CHECK(order >= 0.0, "order is ", order, ", expected a number >= 0");
  } else {
    STD_TORCH_CHECK(
        kind == "probability" || kind == "log_probability" || kind == "cross_entropy" ||
            kind == "log_odds" || kind == "margin",
        "kind is '",
        kind,
        "', expected probability, log_probability, cross_entropy, log_odds, margin or "
        "negative_entropy");
    check_index(labels, "labels", logits.size(1));
  }
  switch (dtype) {
    case ScalarType::Float:
      return run<float, float>(logits, labels, kind, order, value, gradient);
    case ScalarType::Double:
      return run<double, double>(logits, labels, kind, order, value, gradient);
    case ScalarType::BFloat16:
      return run<torch::headeronly::BFloat16, float>(logits, labels, kind, order, value, gradient);
    case ScalarType::Half:
      return run<torch::headeronly::Half, float>(logits, labels, kind, order, value, gradient);
    default:
      STD_TORCH_CHECK(
          false, "logits has scalar type ", static_cast<int>(dtype), ", expected a floating type");
  }
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective));
}
