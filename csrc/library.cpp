// The schemas of all operations, the build report, and the empty module whose import registers
// them.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <string>

#include "schemas.h"

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
  hcnn_fast::define_operations(m);
}

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CompositeExplicitAutograd, m) {
  m.impl("build_config", TORCH_BOX(&build_config));
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
