// The CUDA kernels' row programs on emulated blocks: every thread of a block is a thread here, and
// meets the others at a barrier. Registered as another namespace with the package's schemas.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <barrier>
#include <cstring>
#include <thread>
#include <vector>

#include "operations/backtracking_step.h"
#include "operations/content_hash.h"
#include "operations/label_objective.h"
#include "operations/pgd_step.h"
#include "operations/random_starts.h"
#include "operations/select.h"
#include "schemas.h"

namespace hcnn_fast {
namespace {

constexpr int kThreads = 3;  // divides few sizes, so that masks and remainders matter

struct Shared {
  std::barrier<> barrier{kThreads};
  std::array<uint64_t, kThreads> slot{};
};

struct HostBlock {
  int thread;
  Shared* shared;

  int rank() const { return thread; }
  int size() const { return kThreads; }
  void sync() const { shared->barrier.arrive_and_wait(); }

  template <typename T, typename Combine>
  T reduce(T v, Combine combine) const {
    std::memcpy(&shared->slot[thread], &v, sizeof(T));
    sync();
    std::memcpy(&v, &shared->slot[0], sizeof(T));
    for (int i = 1; i < kThreads; ++i) {
      T other;
      std::memcpy(&other, &shared->slot[i], sizeof(T));
      v = combine(v, other);
    }
    sync();
    return v;
  }
  template <typename T>
  T max(T v) const {
    return reduce(v, [](T a, T b) { return a > b ? a : b; });
  }
  template <typename T>
  T sum(T v) const {
    return reduce(v, [](T a, T b) { return a + b; });
  }
  bool any(bool v) const { return max(v ? 1 : 0) != 0; }
};

// Calls row(block, b) for every row, as a kernel of one block does.
template <typename Row>
void launch(int64_t rows, const Row& row) {
  Shared shared;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int64_t b = 0; b < rows; ++b) {
        row(HostBlock{thread, &shared}, b);
        shared.barrier.arrive_and_wait();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

constexpr auto step_rows = []<typename G, typename T>(
                               const StepArguments<G, T>& arguments,
                               const StepSettings<T>& settings,
                               const StepTensors& tensors) {
  constexpr int V = 16 / sizeof(T);
  const int64_t rows = tensors.point.size(0);
  if (packs_fit<V>(arguments, settings.elements)) {
    launch(rows, [&](const HostBlock& block, int64_t b) {
      pgd_step_row<V>(block, arguments, settings, b);
    });
  } else {
    launch(rows, [&](const HostBlock& block, int64_t b) {
      pgd_step_row<1>(block, arguments, settings, b);
    });
  }
};

constexpr auto backtracking_rows = []<typename T>(
                                       const BacktrackingArguments<T>& arguments,
                                       const BacktrackingSettings<T>& settings,
                                       const BacktrackingTensors& tensors) {
  launch(tensors.proposal.size(0), [&](const HostBlock& block, int64_t b) {
    backtracking_step_row(block, arguments, settings, b);
  });
};

constexpr auto objective_rows = [](const auto& arguments, const ObjectiveTensors& tensors) {
  launch(tensors.logits.size(0), [&](const HostBlock& block, int64_t b) {
    objective_row(block, arguments, b);
  });
};

constexpr auto hash_rows = [](const auto* x, int64_t* out, const Tensor& image) {
  const int64_t elements = row_elements(image);
  launch(image.size(0), [&](const HostBlock& block, int64_t n) {
    const uint64_t hash = hash_row(block, x + n * elements, elements);
    if (block.rank() == 0) {
      out[n] = static_cast<int64_t>(hash);
    }
  });
};

constexpr auto start_rows = [](const auto& arguments, const StartTensors& tensors) {
  launch(tensors.point.size(0), [&](const HostBlock& block, int64_t b) {
    start_row(block, arguments, b);
  });
};

constexpr auto select_rows = [](const auto& arguments, const SelectTensors& tensors) {
  launch(tensors.row.size(0), [&](const HostBlock& block, int64_t n) {
    select_row(block, arguments, n);
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY(HCNN_FAST_EMULATED, m) {
  hcnn_fast::define_operations(m);
}

STABLE_TORCH_LIBRARY_IMPL(HCNN_FAST_EMULATED, CPU, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step<hcnn_fast::step_rows>));
  m.impl(
      "backtracking_step_", TORCH_BOX(&hcnn_fast::backtracking_step<hcnn_fast::backtracking_rows>));
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective<hcnn_fast::objective_rows>));
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash<hcnn_fast::hash_rows>));
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts<hcnn_fast::start_rows>));
  m.impl("select", TORCH_BOX(&hcnn_fast::select<hcnn_fast::select_rows>));
}
