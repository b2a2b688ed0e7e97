// The schema of every operation, one for all implementations.
#pragma once

namespace hcnn_fast {

template <typename Library>
void define_operations(Library& m) {
  m.def(
      "label_objective(Tensor logits, Tensor labels, str kind, float order, "
      "Tensor(a!) value, Tensor(b!) gradient) -> ()");
  m.def(
      "pgd_step_(Tensor(a!) point, Tensor gradient, Tensor image, Tensor image_index, "
      "Tensor step_size, float radius, float lower, float upper, Tensor(b!)? momentum_buffer, "
      "float momentum, Tensor? penalty, str norm, Tensor? value, float distance_weight, "
      "Tensor(c!)? best, Tensor(d!)? best_value, Tensor(e!)? distance, Tensor(f!)? copy, "
      "Tensor(g!)? previous, Tensor(h!)? motion, Tensor(i!)? reach) -> ()");
  m.def(
      "backtracking_step_(Tensor(a!) proposal, Tensor gradient, Tensor reached, Tensor(b!) point, "
      "Tensor(c!) value, Tensor(d!) uphill, Tensor(e!) average, Tensor(f!) step_size, "
      "Tensor image, Tensor image_index, float radius, float lower, float upper, float momentum, "
      "float? backtracking, str direction, Tensor(g!)? best, Tensor(h!)? best_value) -> ()");
  m.def("content_hash(Tensor image, Tensor(a!) out) -> ()");
  m.def(
      "random_starts(Tensor image, Tensor image_hash, Tensor image_index, Tensor label, "
      "Tensor start, int seed, float radius, float lower, float upper, Tensor(a!) point) -> ()");
  m.def(
      "select(Tensor point, Tensor logits, Tensor value, Tensor certainty, int starts, "
      "Tensor(a!) row, Tensor(b!) winner, Tensor(c!) best_point, Tensor(d!) prediction) -> ()");
  m.def(
      "winograd_convolution(Tensor maps, Tensor weight, Tensor? bias, int padding, "
      "int vector_bytes, Tensor(a!) workspace, Tensor(b!) out) -> ()");
}

}  // namespace hcnn_fast
