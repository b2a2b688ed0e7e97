// select on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../arguments.h"

namespace hcnn_fast {
namespace {

void select(
    Tensor point,
    Tensor logits,
    Tensor value,
    Tensor certainty,
    int64_t starts,
    Tensor row,
    Tensor winner,
    Tensor best_point,
    Tensor prediction) {
  const SelectTensors tensors{
      point, logits, value, certainty, starts, row, winner, best_point, prediction};
  check_select(tensors);
  with_select_types(tensors, [&](const auto& arguments) {
    torch::stable::parallel_for(0, row.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        select_row(Serial{}, arguments, n);
      }
    });
  });
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("select", TORCH_BOX(&hcnn_fast::select));
}
