// content_hash and random_starts on a GPU: one block a row.
#include <torch/csrc/stable/library.h>

#include "../arguments.h"
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

template <typename T>
void launch_hash(const Tensor& image, const Tensor& out, cudaStream_t stream) {
  const int64_t elements = row_elements(image);
  const unsigned block = block_size(elements);
  hash_kernel<<<grid_size(image.size(0)), block, 0, stream>>>(
      data<const T>(image), elements, data<int64_t>(out), image.size(0));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch_starts(const StartTensors& tensors, cudaStream_t stream) {
  const StartArguments<T> arguments = start_arguments<T>(tensors);
  const int64_t rows = tensors.point.size(0);
  const unsigned block = block_size((arguments.elements + 3) / 4);
  start_kernel<<<grid_size(rows), block, 0, stream>>>(arguments, rows, tensors.image.size(0));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void content_hash(Tensor image, Tensor out) {
  check_content_hash(image, out);
  if (image.size(0) == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const cudaStream_t stream = current_stream(image);
  if (image.scalar_type() == ScalarType::Double) {
    launch_hash<double>(image, out, stream);
  } else {
    launch_hash<float>(image, out, stream);
  }
}

void random_starts(
    Tensor image,
    Tensor image_hash,
    Tensor image_index,
    Tensor label,
    Tensor start,
    int64_t seed,
    double radius,
    double lower,
    double upper,
    Tensor point) {
  const StartTensors tensors{
      image, image_hash, image_index, label, start, seed, radius, lower, upper, point};
  check_random_starts(tensors);
  if (point.size(0) == 0) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(point.get_device_index());
  const cudaStream_t stream = current_stream(point);
  if (image.scalar_type() == ScalarType::Double) {
    launch_starts<double>(tensors, stream);
  } else {
    launch_starts<float>(tensors, stream);
  }
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CUDA, m) {
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash));
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts));
}
