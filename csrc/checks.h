// Checks of arguments; every message names the argument, what it is and what was expected.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace hcnn_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string describe(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(tensor.size(d));
  }
  return text + "]";
}

inline void check_defined(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.defined(), name, " is None, expected a tensor");
}

inline void check_dtype(const Tensor& tensor, const char* name, ScalarType expected) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == expected,
      name,
      " has scalar type ",
      static_cast<int>(tensor.scalar_type()),
      ", expected ",
      static_cast<int>(expected));
}

inline void check_device(const Tensor& tensor, const char* name, const Tensor& like) {
  check_defined(tensor, name);
  STD_TORCH_CHECK(
      tensor.device() == like.device(),
      name,
      " is on device ",
      static_cast<int>(tensor.device().type()),
      ":",
      static_cast<int>(tensor.get_device_index()),
      ", expected the device of the first argument");
}

inline void check_floating(const Tensor& tensor, const char* name) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Double,
      name,
      " has scalar type ",
      static_cast<int>(dtype),
      ", expected float32 or float64");
}

// A contiguous vector of `rows` entries.
inline void check_vector(
    const Tensor& tensor,
    const char* name,
    int64_t rows,
    ScalarType dtype,
    const Tensor& like) {
  check_device(tensor, name, like);
  check_dtype(tensor, name, dtype);
  STD_TORCH_CHECK(
      tensor.dim() == 1 && tensor.size(0) == rows && tensor.is_contiguous(),
      name,
      " has shape ",
      describe(tensor),
      ", expected a contiguous [",
      rows,
      "]");
}

inline int64_t row_elements(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t d = 1; d < tensor.dim(); ++d) {
    elements *= tensor.size(d);
  }
  return elements;
}

// Rows are dense and follow each other: [B, *image] in any order of the inner strides.
inline void check_dense_rows(const Tensor& tensor, const char* name) {
  check_defined(tensor, name);
  STD_TORCH_CHECK(tensor.dim() >= 1, name, " has no dimension, expected [B, *image]");
  const int64_t elements = row_elements(tensor);
  if (elements == 0 || tensor.size(0) == 0) {
    return;
  }
  STD_TORCH_CHECK(
      tensor.size(0) == 1 || tensor.stride(0) == elements,
      name,
      " has stride ",
      tensor.stride(0),
      " between rows, expected dense rows of ",
      elements);
  std::vector<std::pair<int64_t, int64_t>> inner;  // (stride, size)
  for (int64_t d = 1; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) {
      inner.emplace_back(tensor.stride(d), tensor.size(d));
    }
  }
  std::sort(inner.begin(), inner.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : inner) {
    STD_TORCH_CHECK(stride == expected, name, " is not dense, expected no gaps and no overlap");
    expected *= size;
  }
}

// `tensor` is [rows, *image] with the inner sizes and strides of `like`.
inline void check_rows_like(
    const Tensor& tensor,
    const char* name,
    int64_t rows,
    const Tensor& like) {
  check_device(tensor, name, like);
  check_dense_rows(tensor, name);
  STD_TORCH_CHECK(
      tensor.dim() == like.dim() && tensor.size(0) == rows,
      name,
      " has shape ",
      describe(tensor),
      ", expected ",
      rows,
      " rows of the shape of ",
      describe(like));
  for (int64_t d = 1; d < like.dim(); ++d) {
    STD_TORCH_CHECK(
        tensor.size(d) == like.size(d),
        name,
        " has shape ",
        describe(tensor),
        ", expected the inner shape of ",
        describe(like));
    STD_TORCH_CHECK(
        tensor.size(d) <= 1 || tensor.stride(d) == like.stride(d) || rows == 0,
        name,
        " has other inner strides than the first argument");
  }
}

// The memory of one argument.
struct Span {
  const char* name;
  const char* begin;
  const char* end;
};

inline Span span_of(const Tensor& tensor, const char* name) {
  const auto* begin = static_cast<const char*>(tensor.data_ptr());
  return {name, begin, begin + tensor.numel() * static_cast<int64_t>(tensor.element_size())};
}

// No byte of memory that is written may be seen through another argument: the first `written`
// spans are compared with each other and with all that follow them.
inline void check_separate(const std::vector<Span>& spans, size_t written) {
  for (size_t i = 0; i < written; ++i) {
    const Span& a = spans[i];
    for (size_t j = i + 1; j < spans.size(); ++j) {
      const Span& b = spans[j];
      STD_TORCH_CHECK(
          a.begin == a.end || b.begin == b.end || a.end <= b.begin || b.end <= a.begin,
          a.name,
          " shares memory with ",
          b.name);
    }
  }
}

inline void check_ball(double radius, double lower, double upper) {
  STD_TORCH_CHECK(radius >= 0.0, "radius is ", radius, ", expected a number >= 0");
  STD_TORCH_CHECK(lower <= upper, "lower is ", lower, ", expected at most upper, ", upper);
}

// Every entry of an index vector lies in [0, limit). Only vectors on the CPU are looked at: others
// could not be without waiting for their device.
inline void check_index(const Tensor& index, const char* name, int64_t limit) {
  if (index.device().type() != torch::headeronly::DeviceType::CPU) {
    return;
  }
  const auto* values = static_cast<const int64_t*>(index.data_ptr());
  for (int64_t b = 0; b < index.numel(); ++b) {
    STD_TORCH_CHECK(
        values[b] >= 0 && values[b] < limit,
        name,
        "[",
        b,
        "] is ",
        values[b],
        ", expected 0 <= index < ",
        limit);
  }
}

}  // namespace hcnn_fast
