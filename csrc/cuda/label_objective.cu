// label_objective on a GPU: one warp a row, or one block where there are many classes.
#include <torch/csrc/stable/library.h>

#include "../operations/label_objective.h"
#include "groups.cuh"

namespace hcnn_fast {
namespace {

constexpr int64_t kClassesOfAWarp = 1024;
constexpr unsigned kWarpsOfABlock = 4;

template <typename T, typename V>
__device__ void require_label(const ObjectiveArguments<T, V>& a, int64_t b) {
  require(a.kind == Kind::negative_entropy || (a.labels[b] >= 0 && a.labels[b] < a.classes));
}

template <typename T, typename V>
__global__ void warp_kernel(ObjectiveArguments<T, V> arguments, int64_t rows) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t b = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp; b < rows;
       b += warps) {
    require_label(arguments, b);
    objective_row(Warp{}, arguments, b);
  }
}

template <typename T, typename V>
__global__ void block_kernel(ObjectiveArguments<T, V> arguments, int64_t rows) {
  for (int64_t b = blockIdx.x; b < rows; b += gridDim.x) {
    require_label(arguments, b);
    objective_row(Block{}, arguments, b);
  }
}

constexpr auto objective_rows = [](const auto& arguments, const ObjectiveTensors& tensors) {
  const int64_t rows = tensors.logits.size(0);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(tensors.logits.get_device_index());
  const cudaStream_t stream = current_stream(tensors.logits);
  if (arguments.classes <= kClassesOfAWarp) {
    const unsigned grid = grid_size((rows + kWarpsOfABlock - 1) / kWarpsOfABlock);
    warp_kernel<<<grid, kWarpsOfABlock * kWarp, 0, stream>>>(arguments, rows);
  } else {
    const unsigned block = block_size(arguments.classes);
    block_kernel<<<grid_size(rows), block, 0, stream>>>(arguments, rows);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective<hcnn_fast::objective_rows>));
}
