// content_hash on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../arguments.h"

namespace hcnn_fast {
namespace {

template <typename T>
void run(const Tensor& image, const Tensor& out) {
  const auto* x = data<const T>(image);
  auto* hash = data<int64_t>(out);
  const int64_t elements = row_elements(image);
  torch::stable::parallel_for(0, image.size(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      hash[n] = static_cast<int64_t>(hash_row(Serial{}, x + n * elements, elements));
    }
  });
}

void content_hash(Tensor image, Tensor out) {
  check_content_hash(image, out);
  if (image.scalar_type() == ScalarType::Double) {
    run<double>(image, out);
  } else {
    run<float>(image, out);
  }
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash));
}
