// content_hash on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>

#include "../checks.h"
#include "../philox.h"

namespace hcnn_fast {
namespace {

template <typename T, typename Bits>
uint64_t hash_row(const T* x, int64_t elements) {
  uint64_t total = 0;
  for (int64_t i = 0; i < elements; ++i) {
    const T value = x[i] + T(0);  // -0.0 becomes 0.0
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    total += hash_share(bits, static_cast<uint64_t>(i));
  }
  return total;
}

template <typename T, typename Bits>
void run(const Tensor& image, const Tensor& out) {
  const auto* x = static_cast<const T*>(image.data_ptr());
  auto* hash = static_cast<int64_t*>(out.data_ptr());
  const int64_t elements = row_elements(image);
  torch::stable::parallel_for(0, image.size(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      hash[n] = static_cast<int64_t>(hash_row<T, Bits>(x + n * elements, elements));
    }
  });
}

void content_hash(Tensor image, Tensor out) {
  check_defined(image, "image");
  STD_TORCH_CHECK(
      image.dim() >= 1 && image.is_contiguous(), "image is not a contiguous [N, *image]");
  check_vector(out, "out", image.size(0), ScalarType::Long, image);
  check_separate({span_of(out, "out"), span_of(image, "image")}, 1);
  if (image.scalar_type() == ScalarType::Double) {
    return run<double, uint64_t>(image, out);
  }
  check_dtype(image, "image", ScalarType::Float);
  run<float, uint32_t>(image, out);
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash));
}
