// The arguments of random_starts: what they must be, and the way to an implementation.
#pragma once

#include "../checks.h"
#include "../rows/starts.h"
#include "../typed_data.h"

namespace hcnn_fast {

// The arguments of one call, in the order of the schema.
struct StartTensors {
  const Tensor &image, &image_hash, &image_index, &label, &start;
  int64_t seed;
  double radius, lower, upper;
  const Tensor& point;
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
  check_index(t.image_index, "image_index", t.image.size(0));
  check_index(t.label, "label", int64_t{1} << 32);
  check_index(t.start, "start", int64_t{1} << 32);
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

// The operation as the dispatcher calls it: what has been checked goes to
// run(StartArguments<T>, StartTensors), T the type of image and point.
template <auto run>
void random_starts(
    Tensor image,
    Tensor image_hash,
    Tensor image_index,
    Tensor label,
    Tensor start,
    int64_t seed,
    double radius,
    double lower,
    double upper,
    Tensor point) {
  const StartTensors tensors{
      image, image_hash, image_index, label, start, seed, radius, lower, upper, point};
  check_random_starts(tensors);
  with_floating_type(image, [&]<typename T>(T) { run(start_arguments<T>(tensors), tensors); });
}

}  // namespace hcnn_fast
