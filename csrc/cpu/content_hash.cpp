// content_hash on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../operations/content_hash.h"

namespace hcnn_fast {
namespace {

constexpr auto hash_rows = [](const auto* x, int64_t* hash, const Tensor& image) {
  const int64_t elements = row_elements(image);
  torch::stable::parallel_for(0, image.size(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      hash[n] = static_cast<int64_t>(hash_row(Serial{}, x + n * elements, elements));
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash<hcnn_fast::hash_rows>));
}
