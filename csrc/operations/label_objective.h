// The arguments of label_objective: what they must be, and the way to an implementation.
#pragma once

#include <string>
#include <type_traits>

#include "../checks.h"
#include "../rows/label_objective.h"
#include "../typed_data.h"

namespace hcnn_fast {

inline Kind kind_of(const std::string& name) {
  const char* names[] = {
      "probability", "log_probability", "cross_entropy", "log_odds", "margin", "negative_entropy"};
  for (int kind = 0; kind < 6; ++kind) {
    if (name == names[kind]) {
      return static_cast<Kind>(kind);
    }
  }
  STD_TORCH_CHECK(
      false,
      "kind is '",
      name,
      "', expected probability, log_probability, cross_entropy, log_odds, margin or "
      "negative_entropy");
}

// The arguments of one call, in the order of the schema.
struct ObjectiveTensors {
  const Tensor &logits, &labels;
  const std::string& kind;
  double order;
  const Tensor &value, &gradient;
};

inline Kind check_label_objective(const ObjectiveTensors& t) {
  const Tensor& logits = t.logits;
  check_defined(logits, "logits");
  STD_TORCH_CHECK(
      logits.dim() == 2 && logits.size(1) >= 1 && logits.is_contiguous(),
      "logits has shape ",
      describe(logits),
      ", expected a contiguous [B, C] with C >= 1");
  const int64_t rows = logits.size(0);
  const ScalarType dtype = logits.scalar_type();
  check_vector(t.labels, "labels", rows, ScalarType::Long, logits);
  check_vector(
      t.value,
      "value",
      rows,
      dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float,
      logits);
  check_rows_like(t.gradient, "gradient", rows, logits);
  check_dtype(t.gradient, "gradient", dtype);
  STD_TORCH_CHECK(t.gradient.is_contiguous(), "gradient is not contiguous");
  check_separate(
      {span_of(t.gradient, "gradient"),
       span_of(t.value, "value"),
       span_of(logits, "logits"),
       span_of(t.labels, "labels")},
      2);
  const Kind chosen = kind_of(t.kind);
  if (chosen == Kind::negative_entropy) {
    STD_TORCH_CHECK(t.order >= 0.0, "order is ", t.order, ", expected a number >= 0");
  } else {
    check_index(t.labels, "labels", logits.size(1));
  }
  return chosen;
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(ObjectiveArguments<T, V>, ObjectiveTensors), T the type of logits, V that of value.
template <auto run>
void label_objective(
    Tensor logits,
    Tensor labels,
    std::string kind,
    double order,
    Tensor value,
    Tensor gradient) {
  const ObjectiveTensors tensors{logits, labels, kind, order, value, gradient};
  const Kind chosen = check_label_objective(tensors);
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
    run(arguments, tensors);
  });
}

}  // namespace hcnn_fast
