// One projected-gradient step of one candidate, for any group of workers.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>

#include "group.h"

namespace hcnn_fast {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

enum class Norm { l1, l2, linf };

// What became of a candidate's point.
enum Motion : uint8_t { kMoved = 0, kStill = 1, kReturned = 2 };

// What is the same for every candidate.
template <typename T>
struct StepSettings {
  int64_t elements;
  T radius, lower, upper, momentum, distance_weight;
  Norm norm;
};

// The tensors of one call; the optional ones are null pointers where absent.
template <typename G, typename T>
struct StepArguments {
  T* point;
  const G* gradient;
  const T* image;
  const int64_t* image_index;
  const T* step_size;
  T* momentum_buffer;
  const T* penalty;
  const T* value;
  T* best;
  T* best_value;
  T* distance;
  BFloat16* copy_bfloat16;
  Half* copy_half;
  T* previous;
  uint8_t* motion;
  T* reach;
};

inline bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether every row of every tensor begins at a multiple of V entries.
template <int V, typename G, typename T>
bool packs_fit(const StepArguments<G, T>& a, int64_t elements) {
  return elements % V == 0 && aligned(a.gradient, V * sizeof(G)) &&
         aligned(a.copy_bfloat16, V * sizeof(BFloat16)) && aligned(a.copy_half, V * sizeof(Half)) &&
         aligned(a.point, V * sizeof(T)) && aligned(a.image, V * sizeof(T)) &&
         aligned(a.momentum_buffer, V * sizeof(T)) && aligned(a.best, V * sizeof(T)) &&
         aligned(a.previous, V * sizeof(T));
}

template <typename T, typename G>
HCNN_FAST_HD T usable(G g) {
  return finite<T>(static_cast<T>(g));
}

// What moving an entry of a point within the ball could add to the sum of gradient * (z - point).
template <typename T>
HCNN_FAST_HD double reach_entry(T z, T x, T g, const StepSettings<T>& s) {
  const T end = g > T(0) ? ball_upper(x, s.radius, s.upper) : ball_lower(x, s.radius, s.lower);
  return static_cast<double>(g) * (static_cast<double>(end) - static_cast<double>(z));
}

// What the penalised move of a row needs to know about all of it.
template <typename T>
struct Penalty {
  T threshold;  // weight of the distance in units of the direction
  T size;       // l2: |z - x|; linf: the level of the new point
  T slope;      // l2: |m|
};

template <typename T>
HCNN_FAST_HD T penalised_entry(T z, T x, T m, T step, const Penalty<T>& penalty, Norm norm) {
  if (norm == Norm::l1) {
    return x + l1_move(z - x, m, step, penalty.threshold);
  }
  if (norm == Norm::l2) {
    const T uphill = l2_slope(z - x, m, penalty.size, penalty.slope, penalty.threshold);
    return z + signed_step(step, uphill);
  }
  return x + clip((z - x) + signed_step(step, m), -penalty.size, penalty.size);
}

// direction(i) is entry i of the accumulated direction.
template <typename Group, typename T, typename Direction>
HCNN_FAST_HD Penalty<T> measure_penalty(
    const Group& group,
    const T* z,
    const T* x,
    T step,
    T threshold,
    const StepSettings<T>& s,
    const Direction& direction) {
  Penalty<T> penalty{threshold, T(0), T(0)};
  if (s.norm == Norm::l2) {
    double size = 0.0, slope = 0.0;
    for (int64_t i = group.rank(); i < s.elements; i += group.size()) {
      const double d = static_cast<double>(z[i] - x[i]);
      const double m = static_cast<double>(direction(i));
      size += d * d;
      slope += m * m;
    }
    penalty.size = static_cast<T>(std::sqrt(group.sum(size)));
    penalty.slope = static_cast<T>(std::sqrt(group.sum(slope)));
  } else if (s.norm == Norm::linf) {
    T level = T(0);
    for (int64_t i = group.rank(); i < s.elements; i += group.size()) {
      const T d = magnitude(z[i] - x[i]);
      level = d > level ? d : level;
    }
    level = group.max(level);
    const T near = step * T(0.0625);  // entries on the level differ from it by rounding
    double on_level = 0.0, passing = 0.0;
    for (int64_t i = group.rank(); i < s.elements; i += group.size()) {
      const T m = direction(i);
      const T outward = signed_step(z[i] - x[i], m);
      on_level += outward + near >= level ? static_cast<double>(magnitude(m)) : 0.0;
      passing += outward + step > level ? static_cast<double>(magnitude(m)) : 0.0;
    }
    penalty.size = linf_level(
        level,
        step,
        static_cast<T>(group.sum(on_level)),
        static_cast<T>(group.sum(passing)),
        threshold);
  }
  return penalty;
}

// V divides the number of elements, and rows begin at multiples of V entries of every tensor.
template <int V, typename Group, typename G, typename T>
HCNN_FAST_HD void pgd_step_row(
    const Group& group,
    const StepArguments<G, T>& a,
    const StepSettings<T>& s,
    int64_t b) {
  const int64_t row = b * s.elements;
  T* z = a.point + row;
  const G* g = a.gradient + row;
  T* m = a.momentum_buffer ? a.momentum_buffer + row : nullptr;
  const T* x = a.image + a.image_index[b] * s.elements;
  const T step = number_or_zero(a.step_size[b]);
  const int64_t first = static_cast<int64_t>(group.rank()) * V;
  const int64_t stride = static_cast<int64_t>(group.size()) * V;

  bool keep = false;
  if (a.best) {
    const T score = a.distance ? a.value[b] - s.distance_weight * a.distance[b] : a.value[b];
    keep = score > a.best_value[b];
    group.sync();  // everyone has read what the first now writes
    if (keep && group.rank() == 0) {
      a.best_value[b] = score;
    }
  }

  T scale = T(0);
  if (m || a.penalty) {
    for (int64_t i = first; i < s.elements; i += stride) {
      const Pack<G, V> slope = load<V>(g + i);
      for (int j = 0; j < V; ++j) {
        const T size = magnitude(usable<T>(slope.entry[j]));
        scale = size > scale ? size : scale;
      }
    }
    scale = group.max(scale);
  }
  const bool scaled = m || a.penalty;
  const auto accumulated = [&](T held, G slope) {
    if (!scaled) {
      return usable<T>(slope);
    }
    const T share = scale > T(0) ? usable<T>(slope) / scale : T(0);
    return m ? s.momentum * held + share : share;
  };
  Penalty<T> penalty{};
  if (a.penalty) {
    const auto direction = [&](int64_t i) { return accumulated(m ? m[i] : T(0), g[i]); };
    penalty =
        measure_penalty(group, z, x, step, penalty_threshold(a.penalty[b], scale), s, direction);
  }

  T farthest = T(0);
  double total = 0.0, reach = 0.0;
  bool changed = false, elsewhere = false;
  for (int64_t i = first; i < s.elements; i += stride) {
    const Pack<T, V> old = load<V>(z + i);
    const Pack<T, V> centre = load<V>(x + i);
    const Pack<G, V> slope = load<V>(g + i);
    Pack<T, V> direction = m ? load<V>(m + i) : Pack<T, V>{};
    Pack<T, V> placed;
    for (int j = 0; j < V; ++j) {
      if (a.reach) {
        reach += reach_entry(old.entry[j], centre.entry[j], usable<T>(slope.entry[j]), s);
      }
      direction.entry[j] = accumulated(direction.entry[j], slope.entry[j]);
      const T moved =
          a.penalty ? penalised_entry(
                          old.entry[j], centre.entry[j], direction.entry[j], step, penalty, s.norm)
                    : old.entry[j] + signed_step(step, direction.entry[j]);
      placed.entry[j] = clip(
          moved,
          ball_lower(centre.entry[j], s.radius, s.lower),
          ball_upper(centre.entry[j], s.radius, s.upper));
      changed |= placed.entry[j] != old.entry[j];
      const T away = magnitude(placed.entry[j] - centre.entry[j]);
      farthest = away > farthest ? away : farthest;
      const double wide = static_cast<double>(away);
      total += s.norm == Norm::l2 ? wide * wide : wide;
    }
    if (keep) {
      store(a.best + row + i, old);
    }
    if (m) {
      store(m + i, direction);
    }
    if (a.previous) {
      const Pack<T, V> before = load<V>(a.previous + row + i);
      for (int j = 0; j < V; ++j) {
        elsewhere |= placed.entry[j] != before.entry[j];
      }
      store(a.previous + row + i, old);
    }
    if (a.copy_bfloat16) {
      Pack<BFloat16, V> low;
      for (int j = 0; j < V; ++j) {
        low.entry[j] = static_cast<BFloat16>(static_cast<float>(placed.entry[j]));
      }
      store(a.copy_bfloat16 + row + i, low);
    }
    if (a.copy_half) {
      Pack<Half, V> low;
      for (int j = 0; j < V; ++j) {
        low.entry[j] = static_cast<Half>(static_cast<float>(placed.entry[j]));
      }
      store(a.copy_half + row + i, low);
    }
    store(z + i, placed);
  }
  if (a.distance) {
    T away = T(0);
    if (s.norm == Norm::linf) {
      away = group.max(farthest);
    } else {
      total = group.sum(total);
      away = static_cast<T>(s.norm == Norm::l2 ? std::sqrt(total) : total);
    }
    if (group.rank() == 0) {
      a.distance[b] = away;
    }
  }
  if (a.reach) {
    reach = group.sum(reach);
    if (group.rank() == 0) {
      a.reach[b] = static_cast<T>(reach);
    }
  }
  if (a.motion) {
    const bool moved = group.any(changed);
    const bool left = group.any(elsewhere) || !a.previous;
    if (group.rank() == 0) {
      a.motion[b] = !moved ? kStill : (left ? kMoved : kReturned);
    }
  }
}

}  // namespace hcnn_fast
