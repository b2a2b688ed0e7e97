// select on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../operations/select.h"

namespace hcnn_fast {
namespace {

constexpr auto select_rows = [](const auto& arguments, const SelectTensors& tensors) {
  torch::stable::parallel_for(0, tensors.row.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      select_row(Serial{}, arguments, n);
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("select", TORCH_BOX(&hcnn_fast::select<hcnn_fast::select_rows>));
}
