// The arguments of backtracking_step_: what they must be, and the way to an implementation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../checks.h"
#include "../rows/backtracking_step.h"
#include "../typed_data.h"

namespace hcnn_fast {

// The arguments of one call, in the order of the schema.
struct BacktrackingTensors {
  const Tensor &proposal, &gradient, &reached, &point, &value, &uphill, &average, &step_size,
      &image, &image_index;
  double radius, lower, upper, momentum;
  const std::optional<double>& backtracking;
  const std::string& direction;
  const OptionalTensor &best, &best_value;
};

inline void check_backtracking_step(const BacktrackingTensors& t) {
  const Tensor& proposal = t.proposal;
  check_dense_rows(proposal, "proposal");
  check_floating(proposal, "proposal");
  const int64_t rows = proposal.size(0);
  const ScalarType dtype = proposal.scalar_type();
  std::vector<Span> spans{span_of(proposal, "proposal")};
  const auto add_rows = [&](const Tensor& tensor, const char* name, int64_t count) {
    check_rows_like(tensor, name, count, proposal);
    check_dtype(tensor, name, dtype);
    spans.push_back(span_of(tensor, name));
  };
  const auto add_vector = [&](const Tensor& tensor, const char* name, ScalarType type) {
    check_vector(tensor, name, rows, type, proposal);
    spans.push_back(span_of(tensor, name));
  };
  add_rows(t.point, "point", rows);
  add_vector(t.value, "value", dtype);
  add_rows(t.uphill, "uphill", rows);
  add_rows(t.average, "average", rows);
  add_vector(t.step_size, "step_size", dtype);
  STD_TORCH_CHECK(t.best.has_value() == t.best_value.has_value(), "best goes with best_value");
  if (t.best.has_value()) {
    add_rows(*t.best, "best", rows);
    add_vector(*t.best_value, "best_value", dtype);
  }
  const size_t written = spans.size();
  add_rows(t.gradient, "gradient", rows);
  add_vector(t.reached, "reached", dtype);
  check_defined(t.image, "image");
  STD_TORCH_CHECK(t.image.dim() >= 1, "image has no dimension, expected [N, *image]");
  add_rows(t.image, "image", t.image.size(0));
  add_vector(t.image_index, "image_index", ScalarType::Long);
  check_separate(spans, written);
  check_index(t.image_index, "image_index", t.image.size(0));
  check_ball(t.radius, t.lower, t.upper);
  STD_TORCH_CHECK(
      !t.backtracking.has_value() || *t.backtracking >= 1.0,
      "backtracking is ",
      t.backtracking.value_or(1.0),
      ", expected a number >= 1 or none");
  STD_TORCH_CHECK(
      t.direction == "sign" || t.direction == "gradient",
      "direction is '",
      t.direction,
      "', expected sign or gradient");
}

template <typename T>
BacktrackingArguments<T> backtracking_arguments(const BacktrackingTensors& t) {
  return {
      data<T>(t.proposal),
      data<const T>(t.gradient),
      data<const T>(t.reached),
      data<T>(t.point),
      data<T>(t.value),
      data<T>(t.uphill),
      data<T>(t.average),
      data<T>(t.step_size),
      data<const T>(t.image),
      data<const int64_t>(t.image_index),
      data<T>(t.best),
      data<T>(t.best_value)};
}

template <typename T>
BacktrackingSettings<T> backtracking_settings(const BacktrackingTensors& t) {
  return {
      row_elements(t.proposal),
      static_cast<T>(t.radius),
      static_cast<T>(t.lower),
      static_cast<T>(t.upper),
      static_cast<T>(t.momentum),
      static_cast<T>(1.0 - t.momentum),
      static_cast<T>(t.backtracking.value_or(1.0)),
      t.backtracking.has_value(),
      t.direction == "sign"};
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(BacktrackingArguments<T>, BacktrackingSettings<T>, BacktrackingTensors), T the type of
// proposal.
template <auto run>
void backtracking_step(
    Tensor proposal,
    Tensor gradient,
    Tensor reached,
    Tensor point,
    Tensor value,
    Tensor uphill,
    Tensor average,
    Tensor step_size,
    Tensor image,
    Tensor image_index,
    double radius,
    double lower,
    double upper,
    double momentum,
    std::optional<double> backtracking,
    std::string direction,
    OptionalTensor best,
    OptionalTensor best_value) {
  const BacktrackingTensors tensors{
      proposal,
      gradient,
      reached,
      point,
      value,
      uphill,
      average,
      step_size,
      image,
      image_index,
      radius,
      lower,
      upper,
      momentum,
      backtracking,
      direction,
      best,
      best_value};
  check_backtracking_step(tensors);
  with_floating_type(proposal, [&]<typename T>(T) {
    run(backtracking_arguments<T>(tensors), backtracking_settings<T>(tensors), tensors);
  });
}

}  // namespace hcnn_fast
