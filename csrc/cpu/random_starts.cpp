// random_starts on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../arguments.h"

namespace hcnn_fast {
namespace {

template <typename T>
void run(const StartTensors& tensors) {
  const StartArguments<T> arguments = start_arguments<T>(tensors);
  torch::stable::parallel_for(0, tensors.point.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      start_row(Serial{}, arguments, b);
    }
  });
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
  if (image.scalar_type() == ScalarType::Double) {
    run<double>(tensors);
  } else {
    run<float>(tensors);
  }
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts));
}
