// pgd_step_ on the CPU: candidates in parallel, each row of memory touched while it is in cache.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../scalar_math.h"
#include "clones.h"

namespace hcnn_fast {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

enum class Norm { l1, l2, linf };

constexpr int64_t kLanes = 8;

// What is the same for every candidate.
template <typename T>
struct Step {
  int64_t elements;
  T radius, lower, upper, momentum;
  Norm norm;
};

// One bfloat16 as the float whose upper half it is; written so that compilers vectorise it.
HCNN_FAST_HD float widen(BFloat16 g) {
  const uint32_t bits = static_cast<uint32_t>(g.x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
HCNN_FAST_HD float widen(Half g) {
  return static_cast<float>(g);
}
HCNN_FAST_HD float widen(float g) {
  return g;
}
HCNN_FAST_HD double widen(double g) {
  return g;
}

// Largest magnitude of a row. Magnitudes order like their bits, and integer maxima vectorise.
template <typename G, typename T>
HCNN_FAST_HD T largest_of(const G* g, int64_t elements) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bits most = 0;
  for (int64_t i = 0; i < elements; ++i) {
    const T value = magnitude(finite<T>(widen(g[i])));
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    most = bits > most ? bits : most;
  }
  T result;
  std::memcpy(&result, &most, sizeof(result));
  return result;
}

template <typename G, typename T>
HCNN_FAST_HD void accumulate_into(T* m, const G* g, T scale, T momentum, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) {
    const T share = scale > T(0) ? finite<T>(widen(g[i])) / scale : T(0);
    m[i] = momentum * m[i] + share;
  }
}

template <typename G, typename T>
HCNN_FAST_HD void move_along(T* z, const G* m, const T* x, T step, const Step<T>& s) {
  for (int64_t i = 0; i < s.elements; ++i) {
    const T moved = z[i] + signed_step(step, finite<T>(widen(m[i])));
    z[i] = clip(moved, ball_lower(x[i], s.radius, s.lower), ball_upper(x[i], s.radius, s.upper));
  }
}

// Multiversioned entry points; target_clones does not take templates.
#define HCNN_FAST_ROW_LOOPS(G, T)                                                      \
  HCNN_FAST_CLONES T largest(const G* g, int64_t n, T) {                               \
    return largest_of<G, T>(g, n);                                                     \
  }                                                                                    \
  HCNN_FAST_CLONES void accumulate(T* m, const G* g, T scale, T momentum, int64_t n) { \
    accumulate_into<G, T>(m, g, scale, momentum, n);                                   \
  }                                                                                    \
  HCNN_FAST_CLONES void move(T* z, const G* m, const T* x, T step, const Step<T>& s) { \
    move_along<G, T>(z, m, x, step, s);                                                \
  }
HCNN_FAST_ROW_LOOPS(float, float)
HCNN_FAST_ROW_LOOPS(BFloat16, float)
HCNN_FAST_ROW_LOOPS(Half, float)
HCNN_FAST_ROW_LOOPS(double, double)
#undef HCNN_FAST_ROW_LOOPS

// Sums in float64 over fixed lanes, so that the order does not hang on the vector width.
template <typename Term>
HCNN_FAST_HD double lane_sum(int64_t elements, const Term& term) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= elements; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lanes[j] += term(i + j);
    }
  }
  for (; i < elements; ++i) {
    lanes[i % kLanes] += term(i);
  }
  double total = 0.0;
  for (double lane : lanes) {
    total += lane;
  }
  return total;
}

template <typename T>
T distance_of(const T* z, const T* x, int64_t elements, Norm norm) {
  if (norm == Norm::linf) {
    T most = T(0);
    for (int64_t i = 0; i < elements; ++i) {
      const T d = magnitude(z[i] - x[i]);
      most = d > most ? d : most;
    }
    return most;
  }
  if (norm == Norm::l1) {
    return static_cast<T>(
        lane_sum(elements, [&](int64_t i) { return static_cast<double>(magnitude(z[i] - x[i])); }));
  }
  return static_cast<T>(std::sqrt(lane_sum(elements, [&](int64_t i) {
    const double d = static_cast<double>(z[i] - x[i]);
    return d * d;
  })));
}

// The move weighed against threshold * |z - x|; see the reference for the rule of each norm.
template <typename T>
void penalised_move(T* z, const T* m, const T* x, T step, T threshold, const Step<T>& s) {
  const auto place = [&](int64_t i, T moved) {
    z[i] = clip(moved, ball_lower(x[i], s.radius, s.lower), ball_upper(x[i], s.radius, s.upper));
  };
  if (s.norm == Norm::l1) {
    for (int64_t i = 0; i < s.elements; ++i) {
      place(i, x[i] + l1_move(z[i] - x[i], m[i], step, threshold));
    }
    return;
  }
  if (s.norm == Norm::l2) {
    const T size = distance_of(z, x, s.elements, Norm::l2);
    const T slope = static_cast<T>(std::sqrt(lane_sum(s.elements, [&](int64_t i) {
      return static_cast<double>(m[i]) * static_cast<double>(m[i]);
    })));
    for (int64_t i = 0; i < s.elements; ++i) {
      const T uphill = l2_slope(z[i] - x[i], m[i], size, slope, threshold);
      place(i, z[i] + signed_step(step, uphill));
    }
    return;
  }
  const T level = distance_of(z, x, s.elements, Norm::linf);
  const auto outward = [&](int64_t i) { return signed_step(z[i] - x[i], m[i]); };
  const T near = step * T(0.0625);  // entries on the level differ from it by rounding
  const T on_level = static_cast<T>(lane_sum(s.elements, [&](int64_t i) {
    return outward(i) + near >= level ? static_cast<double>(magnitude(m[i])) : 0.0;
  }));
  const T passing = static_cast<T>(lane_sum(s.elements, [&](int64_t i) {
    return outward(i) + step > level ? static_cast<double>(magnitude(m[i])) : 0.0;
  }));
  const T next = linf_level(level, step, on_level, passing, threshold);
  for (int64_t i = 0; i < s.elements; ++i) {
    const T moved = (z[i] - x[i]) + signed_step(step, m[i]);
    place(i, x[i] + clip(moved, -next, next));
  }
}

template <typename C, typename T>
void copy_row(C* to, const T* from, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) {
    to[i] = static_cast<C>(from[i]);
  }
}

template <typename T>
T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<T*>(tensor->data_ptr()) : nullptr;
}

// The tensors of one call, all optional ones as null pointers where absent.
template <typename G, typename T>
struct Arguments {
  T* point;
  const G* gradient;
  const T* image;
  const int64_t* image_index;
  const T* step_size;
  T* momentum_buffer;
  const T* penalty;
  const T* value;
  T distance_weight;
  T* best;
  T* best_value;
  T* distance;
  void* copy;
  ScalarType copy_type;
};

template <typename G, typename T>
void step_row(const Arguments<G, T>& a, const Step<T>& s, int64_t b, T* scratch) {
  const int64_t n = s.elements;
  T* z = a.point + b * n;
  const G* g = a.gradient + b * n;
  const T* x = a.image + a.image_index[b] * n;
  if (a.best != nullptr) {
    const T score = a.distance ? a.value[b] - a.distance_weight * a.distance[b] : a.value[b];
    if (score > a.best_value[b]) {
      std::memcpy(a.best + b * n, z, static_cast<size_t>(n) * sizeof(T));
      a.best_value[b] = score;
    }
  }
  const T step = a.step_size[b];
  if (a.momentum_buffer == nullptr && a.penalty == nullptr) {
    move(z, g, x, step, s);
  } else {
    const T scale = largest(g, n, T(0));
    T* m = a.momentum_buffer ? a.momentum_buffer + b * n : scratch;
    if (a.momentum_buffer == nullptr) {
      std::memset(scratch, 0, static_cast<size_t>(n) * sizeof(T));
    }
    accumulate(m, g, scale, a.momentum_buffer ? s.momentum : T(0), n);
    if (a.penalty == nullptr) {
      move(z, static_cast<const T*>(m), x, step, s);
    } else {
      penalised_move(z, m, x, step, penalty_threshold(a.penalty[b], scale), s);
    }
  }
  if (a.distance != nullptr) {
    a.distance[b] = distance_of(z, x, n, s.norm);
  }
  if (a.copy != nullptr) {
    if (a.copy_type == ScalarType::BFloat16) {
      copy_row(static_cast<BFloat16*>(a.copy) + b * n, z, n);
    } else {
      copy_row(static_cast<Half*>(a.copy) + b * n, z, n);
    }
  }
}

template <typename G, typename T>
void run(const Arguments<G, T>& arguments, const Step<T>& step, int64_t rows) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, step.elements));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<T> scratch;
    if (arguments.penalty != nullptr && arguments.momentum_buffer == nullptr) {
      scratch.resize(static_cast<size_t>(step.elements));
    }
    for (int64_t b = begin; b < end; ++b) {
      step_row(arguments, step, b, scratch.data());
    }
  });
}

void check_optional_rows(
    const std::optional<Tensor>& tensor,
    const char* name,
    const Tensor& point) {
  if (tensor.has_value()) {
    check_rows_like(*tensor, name, point.size(0), point);
  }
}

void check_optional_vector(
    const std::optional<Tensor>& tensor,
    const char* name,
    const Tensor& point) {
  if (tensor.has_value()) {
    check_vector(*tensor, name, point.size(0), point.scalar_type(), point);
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
    std::optional<Tensor> momentum_buffer,
    double momentum,
    std::optional<Tensor> penalty,
    std::string norm,
    std::optional<Tensor> value,
    double distance_weight,
    std::optional<Tensor> best,
    std::optional<Tensor> best_value,
    std::optional<Tensor> distance,
    std::optional<Tensor> copy) {
  check_dense_rows(point, "point");
  const int64_t rows = point.size(0);
  const ScalarType dtype = point.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Double,
      "point has scalar type ",
      static_cast<int>(dtype),
      ", expected float32 or float64");
  check_rows_like(gradient, "gradient", rows, point);
  check_dense_rows(image, "image");
  check_rows_like(image, "image", image.size(0), point);
  check_dtype(image, "image", dtype);
  check_vector(image_index, "image_index", rows, ScalarType::Long, point);
  check_index(image_index, "image_index", image.size(0));
  check_vector(step_size, "step_size", rows, dtype, point);
  STD_TORCH_CHECK(radius >= 0.0, "radius is ", radius, ", expected a number >= 0");
  STD_TORCH_CHECK(lower <= upper, "lower is ", lower, ", expected at most upper, ", upper);
  STD_TORCH_CHECK(
      norm == "l1" || norm == "l2" || norm == "linf",
      "norm is '",
      norm,
      "', expected l1, l2 or linf");
  check_optional_rows(momentum_buffer, "momentum_buffer", point);
  check_optional_vector(penalty, "penalty", point);
  check_optional_vector(value, "value", point);
  check_optional_rows(best, "best", point);
  check_optional_vector(best_value, "best_value", point);
  check_optional_vector(distance, "distance", point);
  check_optional_rows(copy, "copy", point);
  STD_TORCH_CHECK(
      best.has_value() == best_value.has_value() && best.has_value() <= value.has_value(),
      "best needs best_value and value");
  if (momentum_buffer.has_value()) {
    check_dtype(*momentum_buffer, "momentum_buffer", dtype);
  }
  if (best.has_value()) {
    check_dtype(*best, "best", dtype);
  }
  if (copy.has_value()) {
    STD_TORCH_CHECK(
        copy->scalar_type() == ScalarType::BFloat16 || copy->scalar_type() == ScalarType::Half,
        "copy has scalar type ",
        static_cast<int>(copy->scalar_type()),
        ", expected bfloat16 or float16");
  }
  std::vector<Span> spans{span_of(point, "point")};
  const auto add = [&](const std::optional<Tensor>& tensor, const char* name) {
    if (tensor.has_value()) {
      spans.push_back(span_of(*tensor, name));
    }
  };
  add(momentum_buffer, "momentum_buffer");
  add(best, "best");
  add(best_value, "best_value");
  add(distance, "distance");
  add(copy, "copy");
  const size_t written = spans.size();
  add(gradient, "gradient");
  add(image, "image");
  add(image_index, "image_index");
  add(step_size, "step_size");
  add(penalty, "penalty");
  add(value, "value");
  check_separate(spans, written);
  const int64_t elements = row_elements(point);
  const Norm kind = norm == "l1" ? Norm::l1 : (norm == "l2" ? Norm::l2 : Norm::linf);
  const auto call = [&]<typename G, typename T>(const G* slope, T) {
    const Arguments<G, T> arguments{
        static_cast<T*>(point.data_ptr()),
        slope,
        static_cast<const T*>(image.data_ptr()),
        static_cast<const int64_t*>(image_index.data_ptr()),
        static_cast<const T*>(step_size.data_ptr()),
        data<T>(momentum_buffer),
        data<T>(penalty),
        data<T>(value),
        static_cast<T>(distance_weight),
        data<T>(best),
        data<T>(best_value),
        data<T>(distance),
        copy.has_value() ? copy->data_ptr() : nullptr,
        copy.has_value() ? copy->scalar_type() : ScalarType::Float};
    const Step<T> step{
        elements,
        static_cast<T>(radius),
        static_cast<T>(lower),
        static_cast<T>(upper),
        static_cast<T>(momentum),
        kind};
    run(arguments, step, rows);
  };
  const void* slope = gradient.data_ptr();
  const ScalarType slope_dtype = gradient.scalar_type();
  if (dtype == ScalarType::Double) {
    check_dtype(gradient, "gradient", ScalarType::Double);
    call(static_cast<const double*>(slope), double{});
  } else if (slope_dtype == ScalarType::BFloat16) {
    call(static_cast<const BFloat16*>(slope), float{});
  } else if (slope_dtype == ScalarType::Half) {
    call(static_cast<const Half*>(slope), float{});
  } else {
    check_dtype(gradient, "gradient", ScalarType::Float);
    call(static_cast<const float*>(slope), float{});
  }
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step));
}
