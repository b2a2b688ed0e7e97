// The work on some tiles, for one width of vectors: included in a namespace and under a target of
// its own for each, with kBytes of a register, and kRows of tiles whose sums, two registers each,
// are kept in registers at once; the last tiles come in kFewRows. They divide kRows, and those
// kGroup.

// Floats that fill a register, wherever in memory they lie.
using Lanes = float __attribute__((vector_size(kBytes), aligned(4), may_alias));

constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);

inline Lanes load(const float* from) {
  return *reinterpret_cast<const Lanes*>(from);
}

inline void store(float* to, Lanes lanes) {
  *reinterpret_cast<Lanes*>(to) = lanes;
}

// B^T d of the six entries d[0], d[step], ...
inline void read_points(const Lanes* d, int64_t step, Lanes* t, int64_t t_step) {
  const Lanes d0 = d[0], d1 = d[step], d2 = d[2 * step];
  const Lanes d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Lanes near_even = d4 - kFar2 * d2, near_odd = kNear * (d3 - kFar2 * d1);
  const Lanes far_even = d4 - kNear2 * d2, far_odd = kFar * (d3 - kNear2 * d1);
  t[0] = (d4 - (kNear2 + kFar2) * d2) + (kNear2 * kFar2) * d0;
  t[t_step] = near_even + near_odd;
  t[2 * t_step] = near_even - near_odd;
  t[3 * t_step] = far_even + far_odd;
  t[4 * t_step] = far_even - far_odd;
  t[5 * t_step] = (d5 - (kNear2 + kFar2) * d3) + (kNear2 * kFar2) * d1;
}

// A^T m of the six entries m[0], m[step], ...
inline void write_outputs(const Lanes* m, int64_t step, Lanes* y, int64_t y_step) {
  const Lanes near_even = m[step] + m[2 * step], near_odd = m[step] - m[2 * step];
  const Lanes far_even = m[3 * step] + m[4 * step], far_odd = m[3 * step] - m[4 * step];
  y[0] = m[0] + (near_even + far_even);
  y[y_step] = kNear * near_odd + kFar * far_odd;
  y[2 * y_step] = kNear2 * near_even + kFar2 * far_even;
  y[3 * y_step] = (kNear3 * near_odd + kFar3 * far_odd) + m[5 * step];
}

inline void transform_patch(
    const WinogradArguments& a,
    int64_t tile,
    float* transformed) {  // [kProducts, in]
  const Place place = place_of(a, tile);
  const float* map = a.maps + place.row * a.height * a.width * a.in;
  for (int64_t c = 0; c < a.in; c += kLanes) {
    Lanes patch[kProducts], half[kProducts];
    for (int64_t i = 0; i < kPatch; ++i) {
      const int64_t y = place.top + i - a.padding;
      for (int64_t j = 0; j < kPatch; ++j) {
        const int64_t x = place.left + j - a.padding;
        const bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
        patch[i * kPatch + j] = inside ? load(map + (y * a.width + x) * a.in + c) : Lanes{};
      }
    }
    for (int64_t j = 0; j < kPatch; ++j) {
      read_points(patch + j, kPatch, half + j, kPatch);
    }
    for (int64_t i = 0; i < kPatch; ++i) {
      read_points(half + i * kPatch, 1, patch + i * kPatch, 1);
    }
    for (int64_t p = 0; p < kProducts; ++p) {
      store(transformed + p * a.in + c, patch[p]);
    }
  }
}

inline void transform_products(
    const WinogradArguments& a,
    int64_t tile,
    const float* products) {  // [kProducts, out]
  const Place place = place_of(a, tile);
  const int64_t down = std::min(kTile, a.out_height - place.top);
  const int64_t across = std::min(kTile, a.out_width - place.left);
  float* out =
      a.out + ((place.row * a.out_height + place.top) * a.out_width + place.left) * a.out_channels;
  for (int64_t k = 0; k < a.out_channels; k += kLanes) {
    Lanes sums[kProducts], half[kTile * kPatch], tile_out[kTile * kTile];
    for (int64_t p = 0; p < kProducts; ++p) {
      sums[p] = load(products + p * a.out_channels + k);
    }
    for (int64_t j = 0; j < kPatch; ++j) {
      write_outputs(sums + j, kPatch, half + j, kPatch);
    }
    for (int64_t i = 0; i < kTile; ++i) {
      write_outputs(half + i * kPatch, 1, tile_out + i * kTile, 1);
    }
    const Lanes bias = a.bias ? load(a.bias + k) : Lanes{};
    for (int64_t i = 0; i < down; ++i) {
      for (int64_t j = 0; j < across; ++j) {
        store(out + (i * a.out_width + j) * a.out_channels + k, tile_out[i * kTile + j] + bias);
      }
    }
  }
}

// One entry of all patches, a panel of its weights, and where their products belong.
struct Factors {
  const float* patches;  // [tiles, in]
  const float* panel;    // [in, width]
  float* products;       // [tiles, width]
  int64_t in, width, patch_step, product_step;
};

// Products of the tiles from `tile` on with the outputs from `first` on.
template <int Rows, int Vectors>
inline void multiply(const Factors& f, int64_t tile, int64_t first) {
  const float* patches = f.patches + tile * f.patch_step;
  Lanes sums[Rows][Vectors] = {};
  for (int64_t c = 0; c < f.in; ++c) {
    Lanes weights[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      weights[v] = load(f.panel + c * f.width + first + v * kLanes);
    }
#pragma GCC unroll 16
    for (int t = 0; t < Rows; ++t) {
      const float entry = patches[t * f.patch_step + c];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        sums[t][v] += entry * weights[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < Rows; ++t) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      store(f.products + (tile + t) * f.product_step + first + v * kLanes, sums[t][v]);
    }
  }
}

// All products of the tiles from `begin` on, as long as they come in so many Rows; says where not.
template <int Rows>
inline int64_t multiply_rows(const Factors& f, int64_t begin, int64_t end) {
  int64_t tile = begin;
  for (; tile + Rows <= end; tile += Rows) {
    int64_t first = 0;
    for (; first + 2 * kLanes <= f.width; first += 2 * kLanes) {
      multiply<Rows, 2>(f, tile, first);
    }
    for (; first < f.width; first += kLanes) {
      multiply<Rows, 1>(f, tile, first);
    }
  }
  return tile;
}

inline void convolve_tiles(
    const WinogradArguments& a,
    int64_t begin,
    int64_t end,
    float* workspace) {
  const int64_t patch_step = kProducts * a.in + kGap;
  const int64_t product_step = kProducts * a.out_channels + kGap;
  const int64_t tiles = (end - begin + kFewRows - 1) / kFewRows * kFewRows;
  float* patches = workspace;                        // [tiles, patch_step]
  float* products = workspace + tiles * patch_step;  // [tiles, product_step]
  for (int64_t t = 0; t < end - begin; ++t) {
    transform_patch(a, begin + t, patches + t * patch_step);
  }
  // The last rows are filled with tiles of zeros, whose products nobody reads.
  std::fill(patches + (end - begin) * patch_step, patches + tiles * patch_step, 0.0f);
  for (int64_t p = 0; p < kProducts; ++p) {
    for (int64_t k = 0; k < a.out_channels; k += kPanel) {
      const Factors factors = {
          .patches = patches + p * a.in,
          .panel = a.weight + (p * a.out_channels + k) * a.in,
          .products = products + p * a.out_channels + k,
          .in = a.in,
          .width = std::min(kPanel, a.out_channels - k),
          .patch_step = patch_step,
          .product_step = product_step};
      const int64_t left = multiply_rows<kRows>(factors, 0, tiles);
      multiply_rows<kFewRows>(factors, left, tiles);
    }
  }
  for (int64_t t = 0; t < end - begin; ++t) {
    transform_products(a, begin + t, products + t * product_step);
  }
}
