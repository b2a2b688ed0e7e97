// content_hash and random_starts on a GPU: one block a row.
#include <torch/csrc/stable/library.h>

#include "../operations/content_hash.h"
#include "../operations/random_starts.h"
#include "groups.cuh"

namespace hcnn_fast {
namespace {

template <typename T>
__global__ void hash_kernel(const T* image, int64_t elements, int64_t* out, int64_t rows) {
  for (int64_t n = blockIdx.x; n < rows; n += gridDim.x) {
    const uint64_t hash = hash_row(Block{}, image + n * elements, elements);
    if (threadIdx.x == 0) {
      out[n] = static_cast<int64_t>(hash);
    }
  }
}

template <typename T>
__global__ void start_kernel(StartArguments<T> arguments, int64_t rows, int64_t images) {
  for (int64_t b = blockIdx.x; b < rows; b += gridDim.x) {
    require(arguments.image_index[b] >= 0 && arguments.image_index[b] < images);
    start_row(Block{}, arguments, b);
  }
}

constexpr auto hash_rows = [](const auto* x, int64_t* hash, const Tensor& image) {
  const int64_t rows = image.size(0), elements = row_elements(image);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const cudaStream_t stream = current_stream(image);
  hash_kernel<<<grid_size(rows), block_size(elements), 0, stream>>>(x, elements, hash, rows);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

constexpr auto start_rows = [](const auto& arguments, const StartTensors& tensors) {
  const int64_t rows = tensors.point.size(0), images = tensors.image.size(0);
  if (rows == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(tensors.point.get_device_index());
  const cudaStream_t stream = current_stream(tensors.point);
  const unsigned block = block_size((arguments.elements + 3) / 4);
  start_kernel<<<grid_size(rows), block, 0, stream>>>(arguments, rows, images);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash<hcnn_fast::hash_rows>));
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts<hcnn_fast::start_rows>));
}
