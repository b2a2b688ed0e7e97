// select on a GPU: one block an image.
#include <torch/csrc/stable/library.h>

#include "../arguments.h"
#include "groups.cuh"

namespace hcnn_fast {
namespace {

constexpr unsigned kThreads = 128;

template <typename T, typename L>
__global__ void select_kernel(SelectArguments<T, L> arguments, int64_t images) {
  for (int64_t n = blockIdx.x; n < images; n += gridDim.x) {
    select_row(Block{}, arguments, n);
  }
}

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
  const int64_t images = row.size(0);
  if (images == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(point.get_device_index());
  const cudaStream_t stream = current_stream(point);
  with_select_types(tensors, [&](const auto& arguments) {
    select_kernel<<<grid_size(images), kThreads, 0, stream>>>(arguments, images);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("select", TORCH_BOX(&hcnn_fast::select));
}
