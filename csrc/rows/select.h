// The winner of an image: the larger value, of equals the more certain, of equals the first.
#pragma once

#include <limits>
#include <type_traits>

#include "group.h"

namespace hcnn_fast {

// What entries are compared as; NaN ranks with minus infinity.
template <typename T>
HCNN_FAST_HD auto rankable(T v) {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const Wide wide = static_cast<Wide>(v);
  return wide == wide ? wide : -std::numeric_limits<Wide>::infinity();
}

// First index in [0, count) of the largest (value, certainty).
template <typename Group, typename Value, typename Certainty>
HCNN_FAST_HD int64_t
first_best(const Group& group, int64_t count, const Value& value, const Certainty& certainty) {
  auto most = -std::numeric_limits<decltype(value(0))>::infinity();
  for (int64_t k = group.rank(); k < count; k += group.size()) {
    most = value(k) > most ? value(k) : most;
  }
  most = group.max(most);
  auto surest = -std::numeric_limits<decltype(certainty(0))>::infinity();
  for (int64_t k = group.rank(); k < count; k += group.size()) {
    surest = value(k) == most && certainty(k) > surest ? certainty(k) : surest;
  }
  surest = group.max(surest);
  int64_t from_end = 0;  // count - index
  for (int64_t k = group.rank(); k < count; k += group.size()) {
    const bool best = value(k) == most && certainty(k) == surest;
    from_end = best && count - k > from_end ? count - k : from_end;
  }
  return count - group.max(from_end);
}

template <typename T, typename L>
struct SelectArguments {
  const unsigned char* point;  // [n * labels * starts, bytes]
  const L* logits;             // [n * labels * starts, classes]
  const T* value;              // [n * labels * starts]
  const T* certainty;          // [n * labels * starts]
  int64_t labels, starts, classes, bytes;
  int64_t* row;               // [n, labels]
  int64_t* winner;            // [n]
  unsigned char* best_point;  // [n, bytes]
  int64_t* prediction;        // [n]
};

template <typename Group, typename T, typename L>
HCNN_FAST_HD void select_row(const Group& group, const SelectArguments<T, L>& a, int64_t n) {
  int64_t* row = a.row + n * a.labels;
  for (int64_t l = group.rank(); l < a.labels; l += group.size()) {
    const int64_t first = (n * a.labels + l) * a.starts;
    row[l] = first + first_best(
                         Serial{},
                         a.starts,
                         [&](int64_t k) { return rankable(a.value[first + k]); },
                         [&](int64_t k) { return rankable(a.certainty[first + k]); });
  }
  group.sync();
  const int64_t top = first_best(
      group,
      a.labels,
      [&](int64_t l) { return rankable(a.value[row[l]]); },
      [&](int64_t l) { return rankable(a.certainty[row[l]]); });
  const L* z = a.logits + row[top] * a.classes;
  const auto logit = [&](int64_t k) { return rankable(z[k]); };
  const int64_t predicted = first_best(group, a.classes, logit, logit);
  if (group.rank() == 0) {
    a.winner[n] = top;
    a.prediction[n] = predicted;
  }
  const unsigned char* from = a.point + row[top] * a.bytes;
  unsigned char* to = a.best_point + n * a.bytes;
  for (int64_t i = 4 * group.rank(); i < a.bytes; i += 4 * group.size()) {
    store<4>(to + i, load<4>(from + i));  // points are of float32 or float64
  }
}

}  // namespace hcnn_fast
