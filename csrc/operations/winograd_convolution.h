// The arguments of winograd_convolution: what they must be, and the way to an implementation.
#pragma once

#include <cstdint>

#include "../checks.h"
#include "../typed_data.h"

namespace hcnn_fast {

constexpr int64_t kTaps = 3;                    // weights along an axis
constexpr int64_t kTile = 4;                    // outputs of a tile along an axis
constexpr int64_t kPatch = kTile + kTaps - 1;   // entries of the maps that a tile reads
constexpr int64_t kProducts = kPatch * kPatch;  // transformed entries of a patch
constexpr int64_t kChannels = 16;               // channels come in multiples of these
constexpr int64_t kGroup = 12;                  // a workspace holds a multiple of so many tiles
constexpr int64_t kGap = 16;  // floats between tiles, which would else share their cache sets
constexpr int64_t kPanel = 2 * kChannels;  // output channels that lie together in the weights

// What a convolution works on; maps and out are in channels-last order.
struct WinogradArguments {
  const float* maps;    // [B, height, width, in]
  const float* weight;  // [kProducts, in * out]: panels of kPanel outputs, each [in, panel]
  const float* bias;    // [out] or null
  float* workspace;     // [slots, slot_elements]
  float* out;           // [B, out_height, out_width, out]
  int64_t height, width, in, out_height, out_width, out_channels, padding;
  int64_t down, across, tiles;             // of a map, of all maps
  int64_t slots, slot_elements, together;  // who works, and on how many tiles at a time
};

inline void check_channels_last(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      tensor.dim() == 4, name, " has shape ", describe(tensor), ", expected [B, channels, H, W]");
  const int64_t order[] = {1, 3, 2, 0};
  int64_t expected = 1;
  for (int64_t d : order) {
    STD_TORCH_CHECK(
        tensor.size(d) <= 1 || tensor.stride(d) == expected || tensor.numel() == 0,
        name,
        " is not dense in channels-last order");
    expected *= tensor.size(d);
  }
}

inline WinogradArguments check_winograd_convolution(
    const Tensor& maps,
    const Tensor& weight,
    const OptionalTensor& bias,
    int64_t padding,
    const Tensor& workspace,
    const Tensor& out) {
  check_defined(maps, "maps");
  check_dtype(maps, "maps", ScalarType::Float);
  check_channels_last(maps, "maps");
  check_device(out, "out", maps);
  check_dtype(out, "out", ScalarType::Float);
  check_channels_last(out, "out");
  STD_TORCH_CHECK(padding >= 0 && padding < kTaps, "padding is ", padding, ", expected 0, 1 or 2");
  const int64_t in = maps.size(1), outs = out.size(1);
  STD_TORCH_CHECK(
      in >= kChannels && in % kChannels == 0 && outs >= kChannels && outs % kChannels == 0,
      "the convolution has ",
      in,
      " and ",
      outs,
      " channels, expected multiples of ",
      kChannels);
  const int64_t height = maps.size(2) + 2 * padding - kTaps + 1;
  const int64_t width = maps.size(3) + 2 * padding - kTaps + 1;
  STD_TORCH_CHECK(
      out.size(0) == maps.size(0) && height >= 1 && width >= 1 && out.size(2) == height &&
          out.size(3) == width,
      "out has shape ",
      describe(out),
      ", expected ",
      maps.size(0),
      " maps of ",
      height,
      " x ",
      width);
  check_device(weight, "weight", maps);
  check_dtype(weight, "weight", ScalarType::Float);
  STD_TORCH_CHECK(
      weight.dim() == 2 && weight.size(0) == kProducts && weight.size(1) == in * outs &&
          weight.is_contiguous(),
      "weight has shape ",
      describe(weight),
      ", expected a contiguous [",
      kProducts,
      ", ",
      in * outs,
      "]");
  check_device(workspace, "workspace", maps);
  check_dtype(workspace, "workspace", ScalarType::Float);
  STD_TORCH_CHECK(
      workspace.dim() == 3 && workspace.size(0) >= 1 && workspace.size(1) >= kGroup &&
          workspace.size(1) % kGroup == 0 &&
          workspace.size(2) == kProducts * (in + outs) + 2 * kGap && workspace.is_contiguous(),
      "workspace has shape ",
      describe(workspace),
      ", expected a contiguous [slots, tiles, ",
      kProducts * (in + outs) + 2 * kGap,
      "] with tiles a multiple of ",
      kGroup);
  std::vector<Span> spans = {
      span_of(workspace, "workspace"),
      span_of(out, "out"),
      span_of(maps, "maps"),
      span_of(weight, "weight")};
  if (bias.has_value()) {
    check_vector(*bias, "bias", outs, ScalarType::Float, maps);
    spans.push_back(span_of(*bias, "bias"));
  }
  check_separate(spans, 2);
  const int64_t down = (height + kTile - 1) / kTile, across = (width + kTile - 1) / kTile;
  return {
      .maps = data<const float>(maps),
      .weight = data<const float>(weight),
      .bias = data<const float>(bias),
      .workspace = data<float>(workspace),
      .out = data<float>(out),
      .height = maps.size(2),
      .width = maps.size(3),
      .in = in,
      .out_height = height,
      .out_width = width,
      .out_channels = outs,
      .padding = padding,
      .down = down,
      .across = across,
      .tiles = maps.size(0) * down * across,
      .slots = workspace.size(0),
      .slot_elements = workspace.size(1) * workspace.size(2),
      .together = workspace.size(1)};
}

// The operation as the dispatcher calls it: what has been checked goes to
// run(WinogradArguments, vector_bytes).
template <auto run>
void winograd_convolution(
    Tensor maps,
    Tensor weight,
    OptionalTensor bias,
    int64_t padding,
    int64_t vector_bytes,
    Tensor workspace,
    Tensor out) {
  run(check_winograd_convolution(maps, weight, bias, padding, workspace, out), vector_bytes);
}

}  // namespace hcnn_fast
