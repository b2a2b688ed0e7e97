// pgd_step_ on a GPU: one block a candidate.
#include <torch/csrc/stable/library.h>

#include "../arguments.h"
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

void pgd_step(
    Tensor point,
    Tensor gradient,
    Tensor image,
    Tensor image_index,
    Tensor step_size,
    double radius,
    double lower,
    double upper,
    OptionalTensor momentum_buffer,
    double momentum,
    OptionalTensor penalty,
    std::string norm,
    OptionalTensor value,
    double distance_weight,
    OptionalTensor best,
    OptionalTensor best_value,
    OptionalTensor distance,
    OptionalTensor copy,
    OptionalTensor previous,
    OptionalTensor motion) {
  const StepTensors tensors{point,      gradient, image, image_index,     step_size,
                            radius,     lower,    upper, momentum_buffer, momentum,
                            penalty,    norm,     value, distance_weight, best,
                            best_value, distance, copy,  previous,        motion};
  check_pgd_step(tensors);
  const int64_t rows = point.size(0);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(point.get_device_index());
  const cudaStream_t stream = current_stream(point);
  with_step_types(
      tensors,
      [&]<typename G, typename T>(
          const StepArguments<G, T>& arguments, const StepSettings<T>& settings) {
        constexpr int V = 16 / sizeof(T);
        if (packs_fit<V>(arguments, settings.elements)) {
          const unsigned block = block_size(settings.elements / V);
          step_kernel<V>
              <<<grid_size(rows), block, 0, stream>>>(arguments, settings, rows, image.size(0));
        } else {
          const unsigned block = block_size(settings.elements);
          step_kernel<1>
              <<<grid_size(rows), block, 0, stream>>>(arguments, settings, rows, image.size(0));
        }
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      });
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step));
}
