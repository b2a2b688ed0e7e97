// backtracking_step_ on a GPU: one block a candidate.
#include <torch/csrc/stable/library.h>

#include "../operations/backtracking_step.h"
#include "groups.cuh"

namespace hcnn_fast {
namespace {

template <typename T>
__global__ void __launch_bounds__(kLargestBlock) backtracking_kernel(
    BacktrackingArguments<T> arguments,
    BacktrackingSettings<T> settings,
    int64_t rows,
    int64_t images) {
  for (int64_t b = blockIdx.x; b < rows; b += gridDim.x) {
    require(arguments.image_index[b] >= 0 && arguments.image_index[b] < images);
    backtracking_step_row(Block{}, arguments, settings, b);
  }
}

constexpr auto step_rows = []<typename T>(
                               const BacktrackingArguments<T>& arguments,
                               const BacktrackingSettings<T>& settings,
                               const BacktrackingTensors& tensors) {
  const int64_t rows = tensors.proposal.size(0), images = tensors.image.size(0);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(tensors.proposal.get_device_index());
  const cudaStream_t stream = current_stream(tensors.proposal);
  const unsigned block = block_size(settings.elements);
  backtracking_kernel<<<grid_size(rows), block, 0, stream>>>(arguments, settings, rows, images);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("backtracking_step_", TORCH_BOX(&hcnn_fast::backtracking_step<hcnn_fast::step_rows>));
}
