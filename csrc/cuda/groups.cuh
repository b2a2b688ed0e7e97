// The groups of workers on a GPU, and how many blocks they come in.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cstdint>

#include "../rows/group.h"

namespace hcnn_fast {

constexpr int kWarp = 32;
constexpr int kLargestBlock = 512;

struct Larger {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

struct Plus {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// 64-bit unsigned integers go through the shuffle instructions under CUDA's own name for them.
template <typename T>
__device__ __forceinline__ T exchange(T v, int distance) {
  return __shfl_xor_sync(~0u, v, distance);
}
__device__ __forceinline__ uint64_t exchange(uint64_t v, int distance) {
  return __shfl_xor_sync(~0u, static_cast<unsigned long long>(v), distance);
}
__device__ __forceinline__ int64_t exchange(int64_t v, int distance) {
  return __shfl_xor_sync(~0u, static_cast<long long>(v), distance);
}

// All lanes get the result: every lane combines the same pairs, so all have the same bits.
template <typename T, typename Combine>
__device__ __forceinline__ T reduce_warp(T v, Combine combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    v = combine(v, exchange(v, distance));
  }
  return v;
}

// The lanes of one warp.
struct Warp {
  __device__ __forceinline__ int rank() const { return threadIdx.x % kWarp; }
  __device__ __forceinline__ int size() const { return kWarp; }
  __device__ __forceinline__ void sync() const { __syncwarp(); }
  template <typename T>
  __device__ __forceinline__ T max(T v) const {
    return reduce_warp(v, Larger{});
  }
  template <typename T>
  __device__ __forceinline__ T sum(T v) const {
    return reduce_warp(v, Plus{});
  }
  __device__ __forceinline__ bool any(bool v) const { return __any_sync(~0u, v); }
};

// The threads of one block, a multiple of a warp.
struct Block {
  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return blockDim.x; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  template <typename T>
  __device__ __forceinline__ T max(T v) const {
    return reduce(v, Larger{});
  }
  template <typename T>
  __device__ __forceinline__ T sum(T v) const {
    return reduce(v, Plus{});
  }
  __device__ __forceinline__ bool any(bool v) const { return __syncthreads_or(v); }

 private:
  template <typename T, typename Combine>
  __device__ __forceinline__ T reduce(T v, Combine combine) const {
    __shared__ T partial[kLargestBlock / kWarp];
    v = reduce_warp(v, combine);
    __syncthreads();  // the result of the reduction before has been read
    if (threadIdx.x % kWarp == 0) {
      partial[threadIdx.x / kWarp] = v;
    }
    __syncthreads();
    v = partial[0];
    for (int warp = 1; warp < static_cast<int>(blockDim.x / kWarp); ++warp) {
      v = combine(v, partial[warp]);
    }
    return v;
  }
};

// Ends the kernel with an error where an index read on the device is out of range: there is no
// looking at it before the launch without waiting for the device.
__device__ __forceinline__ void require(bool condition) {
  if (!condition) {
    __trap();
  }
}

// Threads for a row of this many pieces of work: about four each, whole warps.
inline unsigned block_size(int64_t pieces) {
  const int64_t warps = (pieces + 4 * kWarp - 1) / (4 * kWarp);
  const int64_t most = kLargestBlock / kWarp;
  return static_cast<unsigned>(kWarp * (warps < 1 ? 1 : (warps > most ? most : warps)));
}

// Blocks for this many rows; each takes every so-many-th row, so that no count is too large.
inline unsigned grid_size(int64_t rows) {
  constexpr int64_t most = int64_t{1} << 30;
  return static_cast<unsigned>(rows < most ? rows : most);
}

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace hcnn_fast
