// select on a GPU: one block an image.
#include <torch/csrc/stable/library.h>

#include "../operations/select.h"
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

constexpr auto select_rows = [](const auto& arguments, const SelectTensors& tensors) {
  const int64_t images = tensors.row.size(0);
  if (images == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(tensors.point.get_device_index());
  const cudaStream_t stream = current_stream(tensors.point);
  select_kernel<<<grid_size(images), kThreads, 0, stream>>>(arguments, images);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("select", TORCH_BOX(&hcnn_fast::select<hcnn_fast::select_rows>));
}
