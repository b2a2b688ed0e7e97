// The arguments of content_hash: what they must be, and the way to an implementation.
#pragma once

#include "../checks.h"
#include "../rows/starts.h"
#include "../typed_data.h"

namespace hcnn_fast {

inline void check_content_hash(const Tensor& image, const Tensor& out) {
  check_defined(image, "image");
  STD_TORCH_CHECK(
      image.dim() >= 1 && image.is_contiguous(), "image is not a contiguous [N, *image]");
  check_floating(image, "image");
  check_vector(out, "out", image.size(0), ScalarType::Long, image);
  check_separate({span_of(out, "out"), span_of(image, "image")}, 1);
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(const T* of image, int64_t* of out, image).
template <auto run>
void content_hash(Tensor image, Tensor out) {
  check_content_hash(image, out);
  with_floating_type(
      image, [&]<typename T>(T) { run(data<const T>(image), data<int64_t>(out), image); });
}

}  // namespace hcnn_fast
