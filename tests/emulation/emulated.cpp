// The CUDA kernels' row programs on emulated blocks: every thread of a block is a thread here, and
// meets the others at a barrier. Registered as another namespace with the package's schemas.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <barrier>
#include <cstring>
#include <thread>
#include <vector>

#include "arguments.h"
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

void pgd_step(
    Tensor point,
    Tensor gradient,
    Tensor image,
    Tensor image_index,
    Tensor step_size,
    double radius,
    double lower,
    double upper,
    OptionalTensor momentum_buffer,
    double momentum,
    OptionalTensor penalty,
    std::string norm,
    OptionalTensor value,
    double distance_weight,
    OptionalTensor best,
    OptionalTensor best_value,
    OptionalTensor distance,
    OptionalTensor copy,
    OptionalTensor previous,
    OptionalTensor motion) {
  const StepTensors tensors{
      point,    gradient,        image,    image_index, step_size, radius, lower,
      upper,    momentum_buffer, momentum, penalty,     norm,      value,  distance_weight,
      best,     best_value,      distance, copy,        previous,  motion};
  check_pgd_step(tensors);
  with_step_types(tensors, [&]<typename G, typename T>(
                               const StepArguments<G, T>& arguments,
                               const StepSettings<T>& settings) {
    constexpr int V = 16 / sizeof(T);
    if (packs_fit<V>(arguments, settings.elements)) {
      launch(point.size(0), [&](const HostBlock& block, int64_t b) {
        pgd_step_row<V>(block, arguments, settings, b);
      });
    } else {
      launch(point.size(0), [&](const HostBlock& block, int64_t b) {
        pgd_step_row<1>(block, arguments, settings, b);
      });
    }
  });
}

void label_objective(
    Tensor logits,
    Tensor labels,
    std::string kind,
    double order,
    Tensor value,
    Tensor gradient) {
  const Kind chosen = check_label_objective(logits, labels, kind, order, value, gradient);
  with_logit_type(logits, [&]<typename T>(T) {
    using V = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const ObjectiveArguments<T, V> arguments{
        data<const T>(logits),
        data<const int64_t>(labels),
        data<V>(value),
        data<T>(gradient),
        logits.size(1),
        chosen,
        order};
    launch(logits.size(0), [&](const HostBlock& block, int64_t b) {
      objective_row(block, arguments, b);
    });
  });
}

template <typename T>
void run_hash(const Tensor& image, const Tensor& out) {
  launch(image.size(0), [&](const HostBlock& block, int64_t n) {
    const int64_t elements = row_elements(image);
    const uint64_t hash = hash_row(block, data<const T>(image) + n * elements, elements);
    if (block.rank() == 0) {
      data<int64_t>(out)[n] = static_cast<int64_t>(hash);
    }
  });
}

void content_hash(Tensor image, Tensor out) {
  check_content_hash(image, out);
  if (image.scalar_type() == ScalarType::Double) {
    run_hash<double>(image, out);
  } else {
    run_hash<float>(image, out);
  }
}

template <typename T>
void run_starts(const StartTensors& tensors) {
  const StartArguments<T> arguments = start_arguments<T>(tensors);
  launch(tensors.point.size(0), [&](const HostBlock& block, int64_t b) {
    start_row(block, arguments, b);
  });
}

void random_starts(
    Tensor image,
    Tensor image_hash,
    Tensor image_index,
    Tensor label,
    Tensor start,
    int64_t seed,
    double radius,
    double lower,
    double upper,
    Tensor point) {
  const StartTensors tensors{
      image, image_hash, image_index, label, start, seed, radius, lower, upper, point};
  check_random_starts(tensors);
  if (image.scalar_type() == ScalarType::Double) {
    run_starts<double>(tensors);
  } else {
    run_starts<float>(tensors);
  }
}

void select(
    Tensor point,
    Tensor logits,
    Tensor value,
    Tensor certainty,
    int64_t starts,
    Tensor row,
    Tensor winner,
    Tensor best_point,
    Tensor prediction) {
  const SelectTensors tensors{
      point, logits, value, certainty, starts, row, winner, best_point, prediction};
  check_select(tensors);
  with_select_types(tensors, [&](const auto& arguments) {
    launch(row.size(0), [&](const HostBlock& block, int64_t n) {
      select_row(block, arguments, n);
    });
  });
}

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY(HCNN_FAST_EMULATED, m) {
  hcnn_fast::define_operations(m);
}

STABLE_TORCH_LIBRARY_IMPL(HCNN_FAST_EMULATED, CPU, m) {
  m.impl("pgd_step_", TORCH_BOX(&hcnn_fast::pgd_step));
  m.impl("label_objective", TORCH_BOX(&hcnn_fast::label_objective));
  m.impl("content_hash", TORCH_BOX(&hcnn_fast::content_hash));
  m.impl("random_starts", TORCH_BOX(&hcnn_fast::random_starts));
  m.impl("select", TORCH_BOX(&hcnn_fast::select));
}
