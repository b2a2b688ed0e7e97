// random_starts on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../operations/random_starts.h"

namespace hcnn_fast {
namespace {

constexpr auto start_rows = [](const auto& arguments, const StartTensors& tensors) {
  torch::stable::parallel_for(0, tensors.point.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      start_row(Serial{}, arguments, b);
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts<hcnn_fast::start_rows>));
}
