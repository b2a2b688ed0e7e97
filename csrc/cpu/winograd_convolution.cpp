// winograd_convolution on the CPU: 3x3 convolutions of stride 1 with a quarter of the products.
//
// A tile of 4x4 outputs is A^T [(G g G^T) * (B^T d B)] A of a patch d of 6x6 entries and weights g
// (Winograd 1980; Lavin and Gray 2016), for polynomials that are evaluated at 0, +-3/4, +-3/2 and
// infinity: twice the rounding of the plain sum, a third of that of the usual 0, +-1, +-2. G g G^T
// is the caller's. The products over the channels of all tiles are matrix products; every output's
// sum has one order, whatever the batch and the number of threads.
#pragma GCC optimize("fp-contract=fast")
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions alone

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../operations/winograd_convolution.h"

namespace hcnn_fast {
namespace {

constexpr float kNear = 0.75f, kFar = 1.5f;  // the points
constexpr float kNear2 = kNear * kNear, kFar2 = kFar * kFar;
constexpr float kNear3 = kNear2 * kNear, kFar3 = kFar2 * kFar;

// Where a tile lies: its map, and its first output.
struct Place {
  int64_t row, top, left;
};

inline Place place_of(const WinogradArguments& a, int64_t tile) {
  const int64_t inside = tile % (a.across * a.down);
  return {tile / (a.across * a.down), inside / a.across * kTile, inside % a.across * kTile};
}

// One copy of the work for every width of registers, each compiled for its instruction set.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HCNN_FAST_WIDE 1

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace avx512 {
constexpr int kBytes = 64, kRows = 12, kFewRows = 4;
#include "winograd_tiles.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace avx2 {
constexpr int kBytes = 32, kRows = 6, kFewRows = 2;
#include "winograd_tiles.h"
}  // namespace avx2
#pragma GCC pop_options

#else
#define HCNN_FAST_WIDE 0
#endif

namespace narrow {
constexpr int kBytes = 16, kRows = 6, kFewRows = 2;
#include "winograd_tiles.h"
}  // namespace narrow

using Convolve = void (*)(const WinogradArguments&, int64_t, int64_t, float*);

// The work with registers of so many bytes, 0 for the widest that the processor has.
Convolve convolve_with(int64_t bytes) {
#if HCNN_FAST_WIDE
  if (__builtin_cpu_supports("x86-64-v4") && (bytes == 64 || bytes == 0)) {
    return avx512::convolve_tiles;
  }
  if (__builtin_cpu_supports("x86-64-v3") && (bytes == 32 || bytes == 0)) {
    return avx2::convolve_tiles;
  }
#endif
  STD_TORCH_CHECK(
      bytes == 16 || bytes == 0,
      "vector_bytes is ",
      bytes,
      ", expected 0, 16, or 32 or 64 where the processor has such registers");
  return narrow::convolve_tiles;
}

constexpr auto convolve = [](const WinogradArguments& a, int64_t vector_bytes) {
  const Convolve chosen = convolve_with(vector_bytes);
  const int64_t share = (a.tiles + a.slots - 1) / a.slots;
  torch::stable::parallel_for(0, a.slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      float* workspace = a.workspace + slot * a.slot_elements;
      const int64_t last = std::min(a.tiles, (slot + 1) * share);
      for (int64_t tile = slot * share; tile < last; tile += a.together) {
        chosen(a, tile, std::min(last, tile + a.together), workspace);
      }
    }
  });
};

}  // namespace
}  // namespace hcnn_fast

STABLE_TORCH_LIBRARY_IMPL(hcnn_fast, CPU, m) {
  m.impl("winograd_convolution", TORCH_BOX(&hcnn_fast::winograd_convolution<hcnn_fast::convolve>));
}
