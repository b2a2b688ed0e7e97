// backtracking_step_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>

#include "../operations/backtracking_step.h"
#include "clones.h"

namespace hcnn_fast {
namespace {

// The rows of backtracking_step_row, one loop for each verdict so that both are vectorised.
template <bool Signs, typename T>
HCNN_FAST_HD void propose(
    T* __restrict__ proposal,
    const T* __restrict__ gradient,
    T* __restrict__ point,
    T* __restrict__ uphill,
    T* __restrict__ average,
    const T* __restrict__ x,
    T step,
    bool taken,
    const BacktrackingSettings<T>& s) {
  if (taken) {
    for (int64_t i = 0; i < s.elements; ++i) {
      const T u = direction_of(gradient[i], Signs);
      const T z = proposal[i];
      const T m = averaged(average[i], u, s);
      point[i] = z;
      uphill[i] = u;
      average[i] = m;
      proposal[i] = proposed(z, m, step, x[i], s);
    }
    return;
  }
  for (int64_t i = 0; i < s.elements; ++i) {
    const T m = averaged(average[i], uphill[i], s);
    average[i] = m;
    proposal[i] = proposed(point[i], m, step, x[i], s);
  }
}

// Multiversioned entry points; target_clones does not take templates.
#define HCNN_FAST_PROPOSE_LOOPS(T)                                                         \
  HCNN_FAST_CLONES void propose_row(                                                       \
      const BacktrackingRow<T>& r, T step, bool taken, const BacktrackingSettings<T>& s) { \
    if (s.signs) {                                                                         \
      propose<true>(                                                                       \
          r.proposal, r.gradient, r.point, r.uphill, r.average, r.image, step, taken, s);  \
    } else {                                                                               \
      propose<false>(                                                                      \
          r.proposal, r.gradient, r.point, r.uphill, r.average, r.image, step, taken, s);  \
    }                                                                                      \
  }
HCNN_FAST_PROPOSE_LOOPS(float)
HCNN_FAST_PROPOSE_LOOPS(double)
#undef HCNN_FAST_PROPOSE_LOOPS

constexpr auto step_rows = []<typename T>(
                               const BacktrackingArguments<T>& arguments,
                               const BacktrackingSettings<T>& settings,
                               const BacktrackingTensors& tensors) {
  const int64_t elements = settings.elements;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, tensors.proposal.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Verdict<T> verdict = judge(arguments, settings, b);
      note(arguments, verdict, b);
      const BacktrackingRow<T> row = row_of(arguments, elements, b);
      if (verdict.better) {
        std::memcpy(row.best, row.proposal, static_cast<size_t>(elements) * sizeof(T));
      }
      propose_row(row, verdict.step, verdict.taken, settings);
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("backtracking_step_", TORCH_BOX(&hcnn_fast::backtracking_step<hcnn_fast::step_rows>));
}
