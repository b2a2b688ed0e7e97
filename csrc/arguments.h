// What every implementation of an operation checks before it runs.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <string>
#include <vector>

#include "checks.h"
#include "rows/label_objective.h"
#include "rows/pgd_step.h"
#include "rows/select.h"
#include "rows/starts.h"

namespace hcnn_fast {

using OptionalTensor = std::optional<Tensor>;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
T* data(const OptionalTensor& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

// Values can be looked at where they are without waiting for a device.
inline bool on_cpu(const Tensor& tensor) {
  return tensor.device().type() == torch::headeronly::DeviceType::CPU;
}

inline void check_index_on_cpu(const Tensor& index, const char* name, int64_t limit) {
  if (on_cpu(index)) {
    check_index(index, name, limit);
  }
}

inline void check_floating(const Tensor& tensor, const char* name) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Double,
      name,
      " has scalar type ",
      static_cast<int>(dtype),
      ", expected float32 or float64");
}

inline void check_ball(double radius, double lower, double upper) {
  STD_TORCH_CHECK(radius >= 0.0, "radius is ", radius, ", expected a number >= 0");
  STD_TORCH_CHECK(lower <= upper, "lower is ", lower, ", expected at most upper, ", upper);
}

// Calls run(T{}) with the C++ type of a tensor of logits.
template <typename Run>
void with_logit_type(const Tensor& logits, const Run& run) {
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Double:
      return run(double{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Half:
      return run(Half{});
    default:
      STD_TORCH_CHECK(
          false,
          "logits has scalar type ",
          static_cast<int>(logits.scalar_type()),
          ", expected a floating type");
  }
}

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

inline Kind check_label_objective(
    const Tensor& logits,
    const Tensor& labels,
    const std::string& kind,
    double order,
    const Tensor& value,
    const Tensor& gradient) {
  check_defined(logits, "logits");
  STD_TORCH_CHECK(
      logits.dim() == 2 && logits.size(1) >= 1 && logits.is_contiguous(),
      "logits has shape ",
      describe(logits),
      ", expected a contiguous [B, C] with C >= 1");
  const int64_t rows = logits.size(0);
  const ScalarType dtype = logits.scalar_type();
  check_vector(labels, "labels", rows, ScalarType::Long, logits);
  check_vector(
      value,
      "value",
      rows,
      dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float,
      logits);
  check_rows_like(gradient, "gradient", rows, logits);
  check_dtype(gradient, "gradient", dtype);
  STD_TORCH_CHECK(gradient.is_contiguous(), "gradient is not contiguous");
  check_separate(
      {span_of(gradient, "gradient"),
       span_of(value, "value"),
       span_of(logits, "logits"),
       span_of(labels, "labels")},
      2);
  const Kind chosen = kind_of(kind);
  if (chosen == Kind::negative_entropy) {
    STD_TORCH_CHECK(order >= 0.0, "order is ", order, ", expected a number >= 0");
  } else {
    check_index_on_cpu(labels, "labels", logits.size(1));
  }
  return chosen;
}

// The arguments of pgd_step_ as they come from the dispatcher, in the order of the schema.
struct StepTensors {
  Tensor point, gradient, image, image_index, step_size;
  double radius, lower, upper;
  OptionalTensor momentum_buffer;
  double momentum;
  OptionalTensor penalty;
  std::string norm;
  OptionalTensor value;
  double distance_weight;
  OptionalTensor best, best_value, distance, copy, previous, motion;
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
  check_index_on_cpu(t.image_index, "image_index", t.image.size(0));
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

// Calls run(StepArguments<G, T>, StepSettings<T>) with the types of gradient and point.
template <typename Run>
void with_step_types(const StepTensors& t, const Run& run) {
  const auto call = [&]<typename G, typename T>(G, T) {
    const bool half = t.copy.has_value() && t.copy->scalar_type() == ScalarType::Half;
    const StepArguments<G, T> arguments{
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
        data<uint8_t>(t.motion)};
    const StepSettings<T> settings{
        row_elements(t.point),
        static_cast<T>(t.radius),
        static_cast<T>(t.lower),
        static_cast<T>(t.upper),
        static_cast<T>(t.momentum),
        static_cast<T>(t.distance_weight),
        t.norm == "l1" ? Norm::l1 : (t.norm == "l2" ? Norm::l2 : Norm::linf)};
    run(arguments, settings);
  };
  if (t.point.scalar_type() == ScalarType::Double) {
    return call(double{}, double{});
  }
  switch (t.gradient.scalar_type()) {
    case ScalarType::BFloat16:
      return call(BFloat16{}, float{});
    case ScalarType::Half:
      return call(Half{}, float{});
    default:
      return call(float{}, float{});
  }
}

inline void check_content_hash(const Tensor& image, const Tensor& out) {
  check_defined(image, "image");
  STD_TORCH_CHECK(
      image.dim() >= 1 && image.is_contiguous(), "image is not a contiguous [N, *image]");
  check_floating(image, "image");
  check_vector(out, "out", image.size(0), ScalarType::Long, image);
  check_separate({span_of(out, "out"), span_of(image, "image")}, 1);
}

// The arguments of random_starts as they come from the dispatcher.
struct StartTensors {
  Tensor image, image_hash, image_index, label, start;
  int64_t seed;
  double radius, lower, upper;
  Tensor point;
};

inline void check_random_starts(const StartTensors& t) {
  check_defined(t.image, "image");
  check_defined(t.point, "point");
  STD_TORCH_CHECK(
      t.image.dim() >= 1 && t.image.is_contiguous(), "image is not a contiguous [N, *image]");
  STD_TORCH_CHECK(t.point.dim() >= 1 && t.point.is_contiguous(), "point is not contiguous");
  check_floating(t.image, "image");
  const int64_t rows = t.point.size(0);
  check_rows_like(t.point, "point", rows, t.image);
  check_dtype(t.point, "point", t.image.scalar_type());
  check_vector(t.image_hash, "image_hash", t.image.size(0), ScalarType::Long, t.image);
  check_vector(t.image_index, "image_index", rows, ScalarType::Long, t.image);
  check_vector(t.label, "label", rows, ScalarType::Long, t.image);
  check_vector(t.start, "start", rows, ScalarType::Long, t.image);
  check_index_on_cpu(t.image_index, "image_index", t.image.size(0));
  check_index_on_cpu(t.label, "label", int64_t{1} << 32);
  check_index_on_cpu(t.start, "start", int64_t{1} << 32);
  check_ball(t.radius, t.lower, t.upper);
  check_separate(
      {span_of(t.point, "point"),
       span_of(t.image, "image"),
       span_of(t.image_hash, "image_hash"),
       span_of(t.image_index, "image_index"),
       span_of(t.label, "label"),
       span_of(t.start, "start")},
      1);
}

template <typename T>
StartArguments<T> start_arguments(const StartTensors& t) {
  return {
      data<const T>(t.image),
      data<const int64_t>(t.image_hash),
      data<const int64_t>(t.image_index),
      data<const int64_t>(t.label),
      data<const int64_t>(t.start),
      static_cast<uint64_t>(t.seed),
      static_cast<T>(t.radius),
      static_cast<T>(t.lower),
      static_cast<T>(t.upper),
      row_elements(t.image),
      data<T>(t.point)};
}

// The arguments of select as they come from the dispatcher.
struct SelectTensors {
  Tensor point, logits, value, certainty;
  int64_t starts;
  Tensor row, winner, best_point, prediction;
};

inline void check_select(const SelectTensors& t) {
  check_dense_rows(t.point, "point");
  check_floating(t.point, "point");
  const Tensor& point = t.point;
  const int64_t rows = point.size(0);
  check_device(t.row, "row", point);
  check_dtype(t.row, "row", ScalarType::Long);
  STD_TORCH_CHECK(
      t.row.dim() == 2 && t.row.size(1) >= 1 && t.row.is_contiguous(),
      "row has shape ",
      describe(t.row),
      ", expected a contiguous [n, L] with L >= 1");
  const int64_t images = t.row.size(0);
  STD_TORCH_CHECK(t.starts >= 1, "starts is ", t.starts, ", expected at least 1");
  STD_TORCH_CHECK(
      rows == images * t.row.size(1) * t.starts,
      "point has ",
      rows,
      " rows, expected n * L * starts");
  check_device(t.logits, "logits", point);
  STD_TORCH_CHECK(
      t.logits.dim() == 2 && t.logits.size(0) == rows && t.logits.size(1) >= 1 &&
          t.logits.is_contiguous(),
      "logits has shape ",
      describe(t.logits),
      ", expected a contiguous [",
      rows,
      ", C] with C >= 1");
  check_defined(t.value, "value");
  check_floating(t.value, "value");
  check_vector(t.value, "value", rows, t.value.scalar_type(), point);
  check_vector(t.certainty, "certainty", rows, t.value.scalar_type(), point);
  check_vector(t.winner, "winner", images, ScalarType::Long, point);
  check_vector(t.prediction, "prediction", images, ScalarType::Long, point);
  check_rows_like(t.best_point, "best_point", images, point);
  check_dtype(t.best_point, "best_point", point.scalar_type());
  check_separate(
      {span_of(t.row, "row"),
       span_of(t.winner, "winner"),
       span_of(t.best_point, "best_point"),
       span_of(t.prediction, "prediction"),
       span_of(point, "point"),
       span_of(t.logits, "logits"),
       span_of(t.value, "value"),
       span_of(t.certainty, "certainty")},
      4);
}

// Calls run(SelectArguments<T, L>) with the types of value and logits.
template <typename Run>
void with_select_types(const SelectTensors& t, const Run& run) {
  with_logit_type(t.logits, [&]<typename L>(L) {
    const auto call = [&]<typename T>(T) {
      run(SelectArguments<T, L>{
          data<const unsigned char>(t.point),
          data<const L>(t.logits),
          data<const T>(t.value),
          data<const T>(t.certainty),
          t.row.size(1),
          t.starts,
          t.logits.size(1),
          row_elements(t.point) * static_cast<int64_t>(t.point.element_size()),
          data<int64_t>(t.row),
          data<int64_t>(t.winner),
          data<unsigned char>(t.best_point),
          data<int64_t>(t.prediction)});
    };
    if (t.value.scalar_type() == ScalarType::Double) {
      call(double{});
    } else {
      call(float{});
    }
  });
}

}  // namespace hcnn_fast
