// pgd_step_ on the CPU: candidates in parallel, each row of memory touched while it is in cache.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../operations/pgd_step.h"
#include "clones.h"
#include "lanes.h"
#include "low_precision.h"

namespace hcnn_fast {
namespace {

// Largest magnitude of a row. Magnitudes order like their bits, and integer maxima vectorise.
template <typename T, typename Entry>
HCNN_FAST_HD T largest_magnitude(int64_t elements, const Entry& entry) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bits most = 0;
  for (int64_t i = 0; i < elements; ++i) {
    const T value = magnitude(entry(i));
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    most = bits > most ? bits : most;
  }
  T result;
  std::memcpy(&result, &most, sizeof(result));
  return result;
}

// scale is the largest magnitude of g; where it is 0, so is every g.
template <typename G, typename T>
HCNN_FAST_HD void accumulate_into(T* m, const G* g, T scale, T momentum, int64_t elements) {
  const T divisor = scale > T(0) ? scale : T(1);
  for (int64_t i = 0; i < elements; ++i) {
    m[i] = momentum * m[i] + finite<T>(widen(g[i])) / divisor;
  }
}

// Moves a row along the signs of direction(i); returns its l_inf distance from the image.
template <typename T, typename Direction>
HCNN_FAST_HD T move_along(
    T* __restrict__ z,
    const T* __restrict__ x,
    T step,
    const StepSettings<T>& s,
    const Direction& direction) {
  return largest_magnitude<T>(s.elements, [&](int64_t i) {
    const T moved = z[i] + signed_step(step, direction(i));
    z[i] = clip(moved, ball_lower(x[i], s.radius, s.lower), ball_upper(x[i], s.radius, s.upper));
    return z[i] - x[i];
  });
}

// The largest sum of gradient * (z - point) over the z of ball and bounds.
template <typename G, typename T>
HCNN_FAST_HD double reach_of(const T* z, const G* g, const T* x, const StepSettings<T>& s) {
  return lane_sum(
      s.elements, [&](int64_t i) { return reach_entry(z[i], x[i], finite<T>(widen(g[i])), s); });
}

// The two of them in one pass.
template <typename G, typename T>
HCNN_FAST_HD T advance_along(
    T* __restrict__ z,
    T* __restrict__ m,
    const G* __restrict__ g,
    const T* __restrict__ x,
    T scale,
    T step,
    const StepSettings<T>& s) {
  const T divisor = scale > T(0) ? scale : T(1);
  return move_along<T>(z, x, step, s, [&](int64_t i) {
    m[i] = s.momentum * m[i] + finite<T>(widen(g[i])) / divisor;
    return m[i];
  });
}

// Multiversioned entry points; target_clones does not take templates.
#define HCNN_FAST_ROW_LOOPS(G, T)                                                           \
  HCNN_FAST_CLONES T largest(const G* g, int64_t n, T) {                                    \
    return largest_magnitude<T>(n, [&](int64_t i) { return finite<T>(widen(g[i])); });      \
  }                                                                                         \
  HCNN_FAST_CLONES void accumulate(T* m, const G* g, T scale, T momentum, int64_t n) {      \
    accumulate_into<G, T>(m, g, scale, momentum, n);                                        \
  }                                                                                         \
  HCNN_FAST_CLONES T move(T* z, const G* g, const T* x, T step, const StepSettings<T>& s) { \
    return move_along<T>(z, x, step, s, [&](int64_t i) { return finite<T>(widen(g[i])); }); \
  }                                                                                         \
  HCNN_FAST_CLONES T advance(                                                               \
      T* z, T* m, const G* g, const T* x, T scale, T step, const StepSettings<T>& s) {      \
    return advance_along<G, T>(z, m, g, x, scale, step, s);                                 \
  }                                                                                         \
  HCNN_FAST_CLONES double within_reach(                                                     \
      const T* z, const G* g, const T* x, const StepSettings<T>& s) {                       \
    return reach_of<G, T>(z, g, x, s);                                                      \
  }
HCNN_FAST_ROW_LOOPS(float, float)
HCNN_FAST_ROW_LOOPS(BFloat16, float)
HCNN_FAST_ROW_LOOPS(Half, float)
HCNN_FAST_ROW_LOOPS(double, double)
#undef HCNN_FAST_ROW_LOOPS

template <typename T>
HCNN_FAST_HD T distance_of(const T* z, const T* x, int64_t elements, Norm norm) {
  if (norm == Norm::linf) {
    return largest_magnitude<T>(elements, [&](int64_t i) { return z[i] - x[i]; });
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
HCNN_FAST_HD void move_against(
    T* z,
    const T* m,
    const T* x,
    T step,
    T threshold,
    const StepSettings<T>& s) {
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

#define HCNN_FAST_NUMBER_LOOPS(T)                                                    \
  HCNN_FAST_CLONES T far(const T* z, const T* x, int64_t n, Norm norm) {             \
    return distance_of<T>(z, x, n, norm);                                            \
  }                                                                                  \
  HCNN_FAST_CLONES void penalised_move(                                              \
      T* z, const T* m, const T* x, T step, T threshold, const StepSettings<T>& s) { \
    move_against<T>(z, m, x, step, threshold, s);                                    \
  }                                                                                  \
  HCNN_FAST_CLONES bool same_row(const T* a, const T* b, int64_t n) {                \
    int differing = 0;                                                               \
    for (int64_t i = 0; i < n; ++i) {                                                \
      differing |= a[i] != b[i];                                                     \
    }                                                                                \
    return differing == 0;                                                           \
  }
HCNN_FAST_NUMBER_LOOPS(float)
HCNN_FAST_NUMBER_LOOPS(double)
#undef HCNN_FAST_NUMBER_LOOPS

template <typename G, typename T>
void step_row(
    const StepArguments<G, T>& a,
    const StepSettings<T>& s,
    int64_t b,
    T* scratch) {  // [2, elements] where motion is asked for or a penalty goes without a buffer
  const int64_t n = s.elements;
  const size_t bytes = static_cast<size_t>(n) * sizeof(T);
  T* z = a.point + b * n;
  const G* g = a.gradient + b * n;
  const T* x = a.image + a.image_index[b] * n;
  T* old = scratch + n;
  if (a.best != nullptr) {
    const T score = a.distance ? a.value[b] - s.distance_weight * a.distance[b] : a.value[b];
    if (score > a.best_value[b]) {
      std::memcpy(a.best + b * n, z, bytes);
      a.best_value[b] = score;
    }
  }
  if (a.motion != nullptr) {
    std::memcpy(old, z, bytes);
  }
  if (a.reach != nullptr) {
    a.reach[b] = static_cast<T>(within_reach(z, g, x, s));
  }
  const T step = number_or_zero(a.step_size[b]);
  T away = T(0);  // in l_inf, where the move tells it
  if (a.penalty != nullptr) {
    const T scale = largest(g, n, T(0));
    T* m = a.momentum_buffer ? a.momentum_buffer + b * n : scratch;
    if (a.momentum_buffer == nullptr) {
      std::memset(scratch, 0, bytes);
    }
    accumulate(m, g, scale, a.momentum_buffer ? s.momentum : T(0), n);
    penalised_move(z, m, x, step, penalty_threshold(a.penalty[b], scale), s);
  } else if (a.momentum_buffer != nullptr) {
    away = advance(z, a.momentum_buffer + b * n, g, x, largest(g, n, T(0)), step, s);
  } else {
    away = move(z, g, x, step, s);
  }
  if (a.distance != nullptr) {
    const bool told = s.norm == Norm::linf && a.penalty == nullptr;
    a.distance[b] = told ? away : far(z, x, n, s.norm);
  }
  if (a.copy_bfloat16 != nullptr) {
    narrow_row(z, a.copy_bfloat16 + b * n, n);
  }
  if (a.copy_half != nullptr) {
    narrow_row(z, a.copy_half + b * n, n);
  }
  if (a.motion != nullptr) {
    T* previous = a.previous ? a.previous + b * n : nullptr;
    const bool returned = previous != nullptr && same_row(z, previous, n);
    a.motion[b] = same_row(z, old, n) ? kStill : (returned ? kReturned : kMoved);
    if (previous != nullptr) {
      std::memcpy(previous, old, bytes);
    }
  }
}

constexpr auto step_rows = []<typename G, typename T>(
                               const StepArguments<G, T>& arguments,
                               const StepSettings<T>& settings,
                               const StepTensors& tensors) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, settings.elements));
  torch::stable::parallel_for(0, tensors.point.size(0), grain, [&](int64_t begin, int64_t end) {
    thread_local std::vector<T> scratch;
    scratch.resize(static_cast<size_t>(2 * settings.elements));
    for (int64_t b = begin; b < end; ++b) {
      step_row(arguments, settings, b, scratch.data());
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step<hcnn_fast::step_rows>));
}
