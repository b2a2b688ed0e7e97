// Scalar formulas of the operations, one copy for CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define HCNN_FAST_HD __host__ __device__ __forceinline__
#else
#define HCNN_FAST_HD inline __attribute__((always_inline))
#endif

namespace hcnn_fast {

template <typename T>
HCNN_FAST_HD T number_or_zero(T v) {
  return v == v ? v : T(0);
}

// A gradient entry that can be computed with: NaN counts as 0, infinity as the largest number.
template <typename T>
HCNN_FAST_HD T finite(T g) {
  constexpr T biggest = std::numeric_limits<T>::max();
  g = number_or_zero(g);
  g = g > biggest ? biggest : g;
  return g < -biggest ? -biggest : g;
}

// step * sign(direction), with sign(0) = 0.
template <typename T>
HCNN_FAST_HD T signed_step(T step, T direction) {
  return direction > T(0) ? step : (direction < T(0) ? -step : T(0));
}

template <typename T>
HCNN_FAST_HD T clip(T v, T low, T high) {
  v = v > low ? v : low;
  return v < high ? v : high;
}

template <typename T>
HCNN_FAST_HD T magnitude(T v) {
  return v < T(0) ? -v : v;
}

// The interval of one pixel: ball of `radius` around it, within the bounds.
template <typename T>
HCNN_FAST_HD T ball_lower(T x, T radius, T lower) {
  const T v = x - radius;
  return v > lower ? v : lower;
}

template <typename T>
HCNN_FAST_HD T ball_upper(T x, T radius, T upper) {
  const T v = x + radius;
  return v < upper ? v : upper;
}

// Weight of the distance in units of the direction, whose largest gradient entry was `scale`.
template <typename T>
HCNN_FAST_HD T penalty_threshold(T penalty, T scale) {
  constexpr T biggest = std::numeric_limits<T>::max();
  if (!(penalty > T(0))) {
    return T(0);
  }
  if (!(scale > T(0))) {
    return biggest;
  }
  const T ratio = penalty / scale;
  return ratio > biggest ? biggest : ratio;
}

// One entry of the l1-penalised move: the new displacement from the image.
template <typename T>
HCNN_FAST_HD T l1_move(T d, T m, T step, T threshold) {
  const T limited = clip(m, -threshold, threshold);
  const T slope = d > T(0) ? m - threshold : (d < T(0) ? m + threshold : m - limited);
  const T moved = d + signed_step(step, slope);
  const bool crosses = (d > T(0) && moved < T(0)) || (d < T(0) && moved > T(0));
  return crosses && magnitude(m) <= threshold ? T(0) : moved;
}

// One entry of the l2-penalised move: the slope of the whole objective.
template <typename T>
HCNN_FAST_HD T l2_slope(T d, T m, T size, T slope_size, T threshold) {
  if (size == T(0)) {
    return slope_size > threshold ? m : T(0);
  }
  return m - threshold * (d / size);
}

// The l_inf level after a step, from the weights of the entries on it and of those passing it.
template <typename T>
HCNN_FAST_HD T linf_level(T level, T step, T on_level, T passing, T threshold) {
  if (on_level > threshold) {
    return level + step;
  }
  if (passing > threshold) {
    return level;
  }
  const T sunk = level - step;
  return sunk > T(0) ? sunk : T(0);
}

// exp(v) for v <= 0 in float64, relative error below 1e-15, 0 below -708; branch-free.
HCNN_FAST_HD double exp_nonpositive(double v) {
  const double clamped = v < -708.0 ? -708.0 : v;
  const double shifted = clamped * 1.4426950408889634074 + 6755399441055744.0;  // 1.5 * 2^52
  const double n = shifted - 6755399441055744.0;
  const double r = (clamped - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  union {
    double number;
    int64_t bits;
  } low, scale;
  low.number = shifted;  // its low mantissa bits hold n
  scale.bits = static_cast<int64_t>(static_cast<uint64_t>(low.bits) << 52) +
               (static_cast<int64_t>(1023) << 52);
  const double result = p * scale.number;
  return v < -708.0 ? 0.0 : result;
}

// The same with a relative error below 1e-8, for results that are rounded to float32.
HCNN_FAST_HD double exp_nonpositive_to_float(double v) {
  const double clamped = v < -708.0 ? -708.0 : v;
  const double shifted = clamped * 1.4426950408889634074 + 6755399441055744.0;  // 1.5 * 2^52
  const double n = shifted - 6755399441055744.0;
  const double r = clamped - n * 0.693147180559945309417;
  const double square = r * r;
  const double low = (1.0 + r) + square * (0.5 + r * (1.0 / 6.0));
  const double high =
      (1.0 / 24.0 + r * (1.0 / 120.0)) + square * (1.0 / 720.0 + r * (1.0 / 5040.0));
  const double p = low + (square * square) * high;
  union {
    double number;
    int64_t bits;
  } shifted_bits, scale;
  shifted_bits.number = shifted;  // its low mantissa bits hold n
  scale.bits = static_cast<int64_t>(static_cast<uint64_t>(shifted_bits.bits) << 52) +
               (static_cast<int64_t>(1023) << 52);
  const double result = p * scale.number;
  return v < -708.0 ? 0.0 : result;
}

// log(1 + v) for 0 <= v <= 1 in float64, relative error below 1e-14; branch-free.
HCNN_FAST_HD double log1p_unit(double v) {
  const double s = v / (2.0 + v);  // log(1 + v) = 2 atanh(s), s <= 1/3
  const double square = s * s;
  double p = 1.0 / 29.0;
  p = p * square + 1.0 / 27.0;
  p = p * square + 1.0 / 25.0;
  p = p * square + 1.0 / 23.0;
  p = p * square + 1.0 / 21.0;
  p = p * square + 1.0 / 19.0;
  p = p * square + 1.0 / 17.0;
  p = p * square + 1.0 / 15.0;
  p = p * square + 1.0 / 13.0;
  p = p * square + 1.0 / 11.0;
  p = p * square + 1.0 / 9.0;
  p = p * square + 1.0 / 7.0;
  p = p * square + 1.0 / 5.0;
  p = p * square + 1.0 / 3.0;
  p = p * square + 1.0;
  return 2.0 * s * p;
}

// log(v) for finite v >= 1 in float64, absolute error below 1e-14; branch-free; NaN for NaN.
HCNN_FAST_HD double log_from_one(double v) {
  union {
    double number;
    int64_t bits;
  } whole, mantissa, exponent;
  whole.number = v;
  mantissa.bits = (whole.bits & 0x000FFFFFFFFFFFFFll) | 0x3FF0000000000000ll;
  exponent.bits = (whole.bits >> 52) | 0x4330000000000000ll;  // 2^52 + biased exponent
  const double power = exponent.number - (4503599627370496.0 + 1023.0);
  const double log = power * 0.693147180559945309417 + log1p_unit(mantissa.number - 1.0);
  return v == v ? log : v;
}

// logit(F) -> F and log F without cancellation.
HCNN_FAST_HD double sigmoid(double odds) {
  if (odds >= 0.0) {
    return 1.0 / (1.0 + std::exp(-odds));
  }
  const double e = std::exp(odds);
  return e / (1.0 + e);
}

HCNN_FAST_HD double log_sigmoid(double odds) {
  return odds >= 0.0 ? -std::log1p(std::exp(-odds)) : odds - std::log1p(std::exp(odds));
}

}  // namespace hcnn_fast
