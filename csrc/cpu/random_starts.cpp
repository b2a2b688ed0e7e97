// random_starts on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../philox.h"

namespace hcnn_fast {
namespace {

struct Box {
  double radius, lower, upper;
};

template <typename T>
void start_row(
    const T* x,
    T* z,
    int64_t elements,
    uint64_t key,
    uint32_t label,
    uint32_t start,
    const Box& box) {
  const T radius = static_cast<T>(box.radius);
  const T low = static_cast<T>(box.lower);
  const T high = static_cast<T>(box.upper);
  for (int64_t block = 0; block * 4 < elements; ++block) {
    const PhiloxWords random = philox(static_cast<uint32_t>(block), label, start, 0, key);
    for (int64_t i = block * 4; i < elements && i < block * 4 + 4; ++i) {
      const T lower = ball_lower(x[i], radius, low);
      const T upper = ball_upper(x[i], radius, high);
      const T v = lower + uniform<T>(random.word[i % 4]) * (upper - lower);
      z[i] = v < upper ? v : upper;
    }
  }
}

template <typename T>
void run(
    const Tensor& image,
    const Tensor& image_hash,
    const Tensor& image_index,
    const Tensor& label,
    const Tensor& start,
    uint64_t seed,
    const Box& box,
    const Tensor& point) {
  const auto* x = static_cast<const T*>(image.data_ptr());
  const auto* hash = static_cast<const int64_t*>(image_hash.data_ptr());
  const auto* row = static_cast<const int64_t*>(image_index.data_ptr());
  const auto* l = static_cast<const int64_t*>(label.data_ptr());
  const auto* s = static_cast<const int64_t*>(start.data_ptr());
  auto* z = static_cast<T*>(point.data_ptr());
  const int64_t elements = row_elements(image);
  torch::stable::parallel_for(0, point.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const T* from = x + row[b] * elements;
      T* to = z + b * elements;
      if (s[b] != 0) {
        const uint64_t key = start_key(static_cast<uint64_t>(hash[row[b]]), seed);
        start_row(
            from, to, elements, key, static_cast<uint32_t>(l[b]), static_cast<uint32_t>(s[b]), box);
        continue;
      }
      for (int64_t i = 0; i < elements; ++i) {
        to[i] = clip(from[i], static_cast<T>(box.lower), static_cast<T>(box.upper));
      }
    }
  });
}

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
  check_defined(image, "image");
  check_defined(point, "point");
  STD_TORCH_CHECK(
      image.dim() >= 1 && image.is_contiguous(), "image is not a contiguous [N, *image]");
  STD_TORCH_CHECK(point.dim() >= 1 && point.is_contiguous(), "point is not contiguous");
  const int64_t rows = point.size(0);
  check_rows_like(point, "point", rows, image);
  check_dtype(point, "point", image.scalar_type());
  check_vector(image_hash, "image_hash", image.size(0), ScalarType::Long, image);
  check_vector(image_index, "image_index", rows, ScalarType::Long, image);
  check_vector(label, "label", rows, ScalarType::Long, image);
  check_vector(start, "start", rows, ScalarType::Long, image);
  check_index(image_index, "image_index", image.size(0));
  check_index(label, "label", int64_t{1} << 32);
  check_index(start, "start", int64_t{1} << 32);
  STD_TORCH_CHECK(radius >= 0.0, "radius is ", radius, ", expected a number >= 0");
  STD_TORCH_CHECK(lower <= upper, "lower is ", lower, ", expected at most upper, ", upper);
  check_separate(
      {span_of(point, "point"),
       span_of(image, "image"),
       span_of(image_hash, "image_hash"),
       span_of(image_index, "image_index"),
       span_of(label, "label"),
       span_of(start, "start")},
      1);
  const Box box{radius, lower, upper};
  const auto key = static_cast<uint64_t>(seed);
  if (image.scalar_type() == ScalarType::Double) {
    return run<double>(image, image_hash, image_index, label, start, key, box, point);
  }
  check_dtype(image, "image", ScalarType::Float);
  run<float>(image, image_hash, image_index, label, start, key, box, point);
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts));
}
