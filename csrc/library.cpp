// The schemas of all operations, the build report, and the empty module whose import registers
// them.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <string>

#ifndef HCNN_FAST_WITH_CUDA
#define HCNN_FAST_WITH_CUDA 0
#endif
#ifndef HCNN_FAST_CUDA_ARCHS
#define HCNN_FAST_CUDA_ARCHS ""
#endif
#ifndef HCNN_FAST_CUDA_REASON
#define HCNN_FAST_CUDA_REASON ""
#endif

namespace {

// What this library was compiled with, as JSON.
std::string build_config() {
#ifdef _OPENMP
  const std::string openmp = std::to_string(_OPENMP);
#else
  const std::string openmp = "0";
#endif
  return std::string("{\"cuda\": ") + (HCNN_FAST_WITH_CUDA ? "true" : "false") +
         ", \"cuda_archs\": \"" HCNN_FAST_CUDA_ARCHS "\"" +
         ", \"cuda_reason\": \"" HCNN_FAST_CUDA_REASON "\"" + ", \"openmp\": " + openmp +
         ", \"compiler\": \"" __VERSION__ "\"}";
}

}  // namespace

STABLE_TORCH_LIBRARY(hcnn_fast, m) {
  m.def("build_config() -> str");
  m.def(
      "label_objective(Tensor logits, Tensor labels, str kind, float order, "
      "Tensor(a!) value, Tensor(b!) gradient) -> ()");
  m.def(
      "pgd_step_(Tensor(a!) point, Tensor gradient, Tensor image, Tensor image_index, "
      "Tensor step_size, float radius, float lower, float upper, Tensor(b!)? momentum_buffer, "
      "float momentum, Tensor? penalty, str norm, Tensor? value, float distance_weight, "
      "Tensor(c!)? best, Tensor(d!)? best_value, Tensor(e!)? distance, Tensor(f!)? copy, "
      "Tensor(g!)? previous, Tensor(h!)? motion) -> ()");
  m.def("content_hash(Tensor image, Tensor(a!) out) -> ()");
  m.def(
      "random_starts(Tensor image, Tensor image_hash, Tensor image_index, Tensor label, "
      "Tensor start, int seed, float radius, float lower, float upper, Tensor(a!) point) -> ()");
  m.def(
      "select(Tensor point, Tensor logits, Tensor value, Tensor certainty, int starts, "
      "Tensor(a!) row, Tensor(b!) winner, Tensor(c!) best_point, Tensor(d!) prediction) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CompositeExplicitAutograd, m) {
  m.impl("build_config", TORCH_BOX(&build_config));
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
