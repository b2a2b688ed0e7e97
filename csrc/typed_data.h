// Tensors as pointers to the C++ type of their entries, and calls by that type.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

namespace hcnn_fast {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
T* data(const OptionalTensor& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

// Calls run(T{}) with the C++ type of a tensor of float32 or float64.
template <typename Run>
void with_floating_type(const Tensor& tensor, const Run& run) {
  if (tensor.scalar_type() == ScalarType::Double) {
    return run(double{});
  }
  return run(float{});
}

// Calls run(T{}) with the C++ type of a tensor of logits.
template <typename Run>
void with_logit_type(const Tensor& logits, const Run& run) {
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Double:
      return run(double{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Half:
      return run(Half{});
    default:
      STD_TORCH_CHECK(
          false,
          "logits has scalar type ",
          static_cast<int>(logits.scalar_type()),
          ", expected a floating type");
  }
}

}  // namespace hcnn_fast
