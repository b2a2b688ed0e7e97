// pgd_step_ on a GPU: one block a candidate.
#include <torch/csrc/stable/library.h>

#include "../operations/pgd_step.h"
#include "groups.cuh"

namespace hcnn_fast {
namespace {

template <int V, typename G, typename T>
__global__ void __launch_bounds__(kLargestBlock) step_kernel(
    StepArguments<G, T> arguments,
    StepSettings<T> settings,
    int64_t rows,
    int64_t images) {
  for (int64_t b = blockIdx.x; b < rows; b += gridDim.x) {
    require(arguments.image_index[b] >= 0 && arguments.image_index[b] < images);
    pgd_step_row<V>(Block{}, arguments, settings, b);
    __syncthreads();
  }
}

constexpr auto step_rows = []<typename G, typename T>(
                               const StepArguments<G, T>& arguments,
                               const StepSettings<T>& settings,
                               const StepTensors& tensors) {
  const int64_t rows = tensors.point.size(0), images = tensors.image.size(0);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(tensors.point.get_device_index());
  const cudaStream_t stream = current_stream(tensors.point);
  constexpr int V = 16 / sizeof(T);
  if (packs_fit<V>(arguments, settings.elements)) {
    const unsigned block = block_size(settings.elements / V);
    step_kernel<V><<<grid_size(rows), block, 0, stream>>>(arguments, settings, rows, images);
  } else {
    const unsigned block = block_size(settings.elements);
    step_kernel<1><<<grid_size(rows), block, 0, stream>>>(arguments, settings, rows, images);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step<hcnn_fast::step_rows>));
}
