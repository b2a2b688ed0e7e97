// The arguments of pgd_step_: what they must be, and the way to an implementation.
#pragma once

#include <string>
#include <vector>

#include "../checks.h"
#include "../rows/pgd_step.h"
#include "../typed_data.h"

namespace hcnn_fast {

// The arguments of one call, in the order of the schema.
struct StepTensors {
  const Tensor &point, &gradient, &image, &image_index, &step_size;
  double radius, lower, upper;
  const OptionalTensor& momentum_buffer;
  double momentum;
  const OptionalTensor& penalty;
  const std::string& norm;
  const OptionalTensor& value;
  double distance_weight;
  const OptionalTensor &best, &best_value, &distance, &copy, &previous, &motion, &reach;
};

inline void check_pgd_step(const StepTensors& t) {
  const Tensor& point = t.point;
  check_dense_rows(point, "point");
  check_floating(point, "point");
  const int64_t rows = point.size(0);
  const ScalarType dtype = point.scalar_type();
  check_rows_like(t.gradient, "gradient", rows, point);
  const ScalarType slope = t.gradient.scalar_type();
  if (dtype == ScalarType::Double || (slope != ScalarType::BFloat16 && slope != ScalarType::Half)) {
    check_dtype(t.gradient, "gradient", dtype);
  }
  check_dense_rows(t.image, "image");
  check_rows_like(t.image, "image", t.image.size(0), point);
  check_dtype(t.image, "image", dtype);
  check_vector(t.image_index, "image_index", rows, ScalarType::Long, point);
  check_index(t.image_index, "image_index", t.image.size(0));
  check_vector(t.step_size, "step_size", rows, dtype, point);
  check_ball(t.radius, t.lower, t.upper);
  STD_TORCH_CHECK(
      t.norm == "l1" || t.norm == "l2" || t.norm == "linf",
      "norm is '",
      t.norm,
      "', expected l1, l2 or linf");

  std::vector<Span> spans{span_of(point, "point")};
  const auto add_rows = [&](const OptionalTensor& tensor, const char* name, bool same_dtype) {
    if (tensor.has_value()) {
      check_rows_like(*tensor, name, rows, point);
      if (same_dtype) {
        check_dtype(*tensor, name, dtype);
      }
      spans.push_back(span_of(*tensor, name));
    }
  };
  const auto add_vector = [&](const OptionalTensor& tensor, const char* name, ScalarType type) {
    if (tensor.has_value()) {
      check_vector(*tensor, name, rows, type, point);
      spans.push_back(span_of(*tensor, name));
    }
  };
  add_rows(t.momentum_buffer, "momentum_buffer", true);
  add_rows(t.best, "best", true);
  add_vector(t.best_value, "best_value", dtype);
  add_vector(t.distance, "distance", dtype);
  add_rows(t.copy, "copy", false);
  add_rows(t.previous, "previous", true);
  add_vector(t.motion, "motion", ScalarType::Byte);
  add_vector(t.reach, "reach", dtype);
  const size_t written = spans.size();
  add_rows(t.gradient, "gradient", false);
  spans.push_back(span_of(t.image, "image"));
  spans.push_back(span_of(t.image_index, "image_index"));
  spans.push_back(span_of(t.step_size, "step_size"));
  add_vector(t.penalty, "penalty", dtype);
  add_vector(t.value, "value", dtype);
  check_separate(spans, written);

  STD_TORCH_CHECK(
      t.best.has_value() == t.best_value.has_value() && t.best.has_value() <= t.value.has_value(),
      "best needs best_value and value");
  STD_TORCH_CHECK(t.previous.has_value() <= t.motion.has_value(), "previous needs motion");
  if (t.copy.has_value()) {
    STD_TORCH_CHECK(
        t.copy->scalar_type() == ScalarType::BFloat16 || t.copy->scalar_type() == ScalarType::Half,
        "copy has scalar type ",
        static_cast<int>(t.copy->scalar_type()),
        ", expected bfloat16 or float16");
  }
}

template <typename G, typename T>
StepArguments<G, T> step_arguments(const StepTensors& t) {
  const bool half = t.copy.has_value() && t.copy->scalar_type() == ScalarType::Half;
  return {
      data<T>(t.point),
      data<const G>(t.gradient),
      data<const T>(t.image),
      data<const int64_t>(t.image_index),
      data<const T>(t.step_size),
      data<T>(t.momentum_buffer),
      data<const T>(t.penalty),
      data<const T>(t.value),
      data<T>(t.best),
      data<T>(t.best_value),
      data<T>(t.distance),
      half ? nullptr : data<BFloat16>(t.copy),
      half ? data<Half>(t.copy) : nullptr,
      data<T>(t.previous),
      data<uint8_t>(t.motion),
      data<T>(t.reach)};
}

template <typename T>
StepSettings<T> step_settings(const StepTensors& t) {
  return {
      row_elements(t.point),
      static_cast<T>(t.radius),
      static_cast<T>(t.lower),
      static_cast<T>(t.upper),
      static_cast<T>(t.momentum),
      static_cast<T>(t.distance_weight),
      t.norm == "l1" ? Norm::l1 : (t.norm == "l2" ? Norm::l2 : Norm::linf)};
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(StepArguments<G, T>, StepSettings<T>, StepTensors), G the type of gradient, T that of point.
template <auto run>
void pgd_step(
    Tensor point,
    Tensor gradient,
    Tensor image,
    Tensor image_index,
    Tensor step_size,
    double radius,
    double lower,
    double upper,
    OptionalTensor momentum_buffer,
    double momentum,
    OptionalTensor penalty,
    std::string norm,
    OptionalTensor value,
    double distance_weight,
    OptionalTensor best,
    OptionalTensor best_value,
    OptionalTensor distance,
    OptionalTensor copy,
    OptionalTensor previous,
    OptionalTensor motion,
    OptionalTensor reach) {
  const StepTensors tensors{
      point, gradient,        image,    image_index, step_size, radius, lower,
      upper, momentum_buffer, momentum, penalty,     norm,      value,  distance_weight,
      best,  best_value,      distance, copy,        previous,  motion, reach};
  check_pgd_step(tensors);
  const auto call = [&]<typename G, typename T>(G, T) {
    run(step_arguments<G, T>(tensors), step_settings<T>(tensors), tensors);
  };
  if (point.scalar_type() == ScalarType::Double) {
    return call(double{}, double{});
  }
  switch (gradient.scalar_type()) {
    case ScalarType::BFloat16:
      return call(BFloat16{}, float{});
    case ScalarType::Half:
      return call(Half{}, float{});
    default:
      return call(float{}, float{});
  }
}

}  // namespace hcnn_fast
