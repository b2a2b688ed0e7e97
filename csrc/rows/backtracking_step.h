// One step of backtracking ascent of one candidate, for any group of workers.
#pragma once

#include "group.h"

namespace hcnn_fast {

constexpr double kShortestStep = 1e-20;

// What is the same for every candidate.
template <typename T>
struct BacktrackingSettings {
  int64_t elements;
  T radius, lower, upper;
  T momentum, fresh;  // weights of the average so far and of the newest direction
  T backtracking;
  bool backtracks, signs;
};

// The tensors of one call; the optional ones are null pointers where absent.
template <typename T>
struct BacktrackingArguments {
  T* proposal;
  const T* gradient;
  const T* reached;
  T* point;
  T* value;
  T* uphill;
  T* average;
  T* step_size;
  const T* image;
  const int64_t* image_index;
  T* best;
  T* best_value;
};

// The rows of one candidate, none of which overlaps another.
template <typename T>
struct BacktrackingRow {
  T* proposal;
  const T* gradient;
  T* point;
  T* uphill;
  T* average;
  const T* image;
  T* best;
};

// What becomes of one candidate.
template <typename T>
struct Verdict {
  bool taken, better;
  T step;
};

template <typename T>
HCNN_FAST_HD Verdict<T> judge(
    const BacktrackingArguments<T>& a,
    const BacktrackingSettings<T>& s,
    int64_t b) {
  const bool taken = !s.backtracks || a.reached[b] >= a.value[b];
  const bool better = taken && a.best != nullptr && a.reached[b] > a.best_value[b];
  if (taken) {
    return {taken, better, a.step_size[b]};
  }
  constexpr T shortest = static_cast<T>(kShortestStep);
  const T shorter = a.step_size[b] / s.backtracking;
  return {taken, better, shorter < shortest ? shortest : shorter};
}

template <typename T>
HCNN_FAST_HD void note(const BacktrackingArguments<T>& a, const Verdict<T>& verdict, int64_t b) {
  if (verdict.better) {
    a.best_value[b] = a.reached[b];
  }
  if (verdict.taken) {
    a.value[b] = a.reached[b];
  }
  a.step_size[b] = verdict.step;
}

template <typename T>
HCNN_FAST_HD BacktrackingRow<T> row_of(
    const BacktrackingArguments<T>& a,
    int64_t elements,
    int64_t b) {
  const int64_t row = b * elements;
  return {
      a.proposal + row,
      a.gradient + row,
      a.point + row,
      a.uphill + row,
      a.average + row,
      a.image + a.image_index[b] * elements,
      a.best ? a.best + row : nullptr};
}

// What the average takes of a gradient entry; 0 of one that is not a number.
template <typename T>
HCNN_FAST_HD T direction_of(T gradient, bool signs) {
  return signs ? signed_step(T(1), gradient) : finite<T>(gradient);
}

template <typename T>
HCNN_FAST_HD T averaged(T average, T uphill, const BacktrackingSettings<T>& s) {
  return s.momentum * average + s.fresh * uphill;
}

// The point that is proposed next; a move that is not a number is none.
template <typename T>
HCNN_FAST_HD T proposed(T point, T average, T step, T x, const BacktrackingSettings<T>& s) {
  const T moved = point + number_or_zero(step * average);
  return clip(moved, ball_lower(x, s.radius, s.lower), ball_upper(x, s.radius, s.upper));
}

template <typename Group, typename T>
HCNN_FAST_HD void backtracking_step_row(
    const Group& group,
    const BacktrackingArguments<T>& a,
    const BacktrackingSettings<T>& s,
    int64_t b) {
  const Verdict<T> verdict = judge(a, s, b);
  group.sync();  // everyone has read what the first now writes
  if (group.rank() == 0) {
    note(a, verdict, b);
  }
  const BacktrackingRow<T> row = row_of(a, s.elements, b);
  for (int64_t i = group.rank(); i < s.elements; i += group.size()) {
    if (verdict.taken) {
      row.point[i] = row.proposal[i];
      row.uphill[i] = direction_of(row.gradient[i], s.signs);
    }
    if (verdict.better) {
      row.best[i] = row.proposal[i];
    }
    row.average[i] = averaged(row.average[i], row.uphill[i], s);
    row.proposal[i] = proposed(row.point[i], row.average[i], verdict.step, row.image[i], s);
  }
}

}  // namespace hcnn_fast
