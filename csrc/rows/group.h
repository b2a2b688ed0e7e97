// The workers that share a row. A row program is written once, over a group: threads of a CUDA
// block, lanes of a warp, one CPU thread, or the emulated block of the tests.
//
// A group has rank() and size(); sync(); and reductions that every worker calls and whose result
// every worker gets: max of numbers, sum of double or uint64_t, any of bool.
#pragma once

#include "../scalar_math.h"

namespace hcnn_fast {

// A group of one.
struct Serial {
  HCNN_FAST_HD int rank() const { return 0; }
  HCNN_FAST_HD int size() const { return 1; }
  HCNN_FAST_HD void sync() const {}
  template <typename T>
  HCNN_FAST_HD T max(T v) const {
    return v;
  }
  template <typename T>
  HCNN_FAST_HD T sum(T v) const {
    return v;
  }
  HCNN_FAST_HD bool any(bool v) const { return v; }
};

// V neighbouring entries that are read or written at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T entry[V];
};

template <int V, typename T>
HCNN_FAST_HD Pack<T, V> load(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <int V, typename T>
HCNN_FAST_HD void store(T* to, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

}  // namespace hcnn_fast
