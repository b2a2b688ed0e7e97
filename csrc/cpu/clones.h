// Run-time dispatch to wide vectors: a function marked HCNN_FAST_CLONES is compiled for several
// instruction sets and the loader picks one, so that a wheel needs no -march.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define HCNN_FAST_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HCNN_FAST_CLONES
#endif
