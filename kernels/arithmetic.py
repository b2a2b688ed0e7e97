"""Scalar formulas of the kernels, as in csrc/scalar_math.h and csrc/philox.h."""

# What Triton compiles has no types of Python.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def widened(v):
    """A number of low precision as float32; float32 and float64 as they are."""
    if v.dtype == tl.bfloat16:  # by its bits: the interpreter's own conversion is not exact
        wide = (v.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif v.dtype == tl.float16:
        wide = v.to(tl.float32)
    else:
        wide = v
    return wide


@triton.jit
def rounded(v, DTYPE: tl.constexpr):
    """The nearest number of a type, of two the even one; low precision by way of float32."""
    if DTYPE == tl.bfloat16:  # by its bits: the interpreter's own conversion truncates
        bits = v.to(tl.float32).to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        result = tl.where(v == v, nearest, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    elif DTYPE == tl.float16:
        result = v.to(tl.float32).to(tl.float16)
    else:
        result = v.to(DTYPE)
    return result


@triton.jit
def biggest(DTYPE: tl.constexpr):
    """The largest finite float32 or float64."""
    if DTYPE == tl.float64:
        number = tl.full((), 1.7976931348623157e308, tl.float64)
    else:
        number = tl.full((), 3.4028234663852886e38, tl.float32)
    return number


@triton.jit
def divided(a, b):
    """a / b, correctly rounded: Triton's own division of float32 is not."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def number_or_zero(v):
    """v, or 0 for NaN."""
    return tl.where(v == v, v, 0.0)


@triton.jit
def finite(g):
    """A gradient entry that can be computed with: NaN is 0, infinity the largest number."""
    limit = biggest(g.dtype)
    g = number_or_zero(g)
    g = tl.where(g > limit, limit, g)
    return tl.where(g < -limit, -limit, g)


@triton.jit
def signed_step(step, direction):
    """step * sign(direction), with sign(0) = 0."""
    return tl.where(direction > 0.0, step, tl.where(direction < 0.0, -step, 0.0))


@triton.jit
def clip(v, low, high):
    """v in [low, high]; NaN becomes low."""
    v = tl.where(v > low, v, low)
    return tl.where(v < high, v, high)


@triton.jit
def ball_lower(x, radius, lower):
    """Lower end of the interval of one pixel: ball around it, within the bounds."""
    v = x - radius
    return tl.where(v > lower, v, lower)


@triton.jit
def ball_upper(x, radius, upper):
    """Upper end of the interval of one pixel."""
    v = x + radius
    return tl.where(v < upper, v, upper)


@triton.jit
def penalty_threshold(penalty, scale):
    """Weight of the distance in units of the direction, whose largest gradient entry was scale."""
    limit = biggest(penalty.dtype)
    ratio = divided(penalty, scale)
    ratio = tl.where(ratio > limit, limit, ratio)
    return tl.where(penalty > 0.0, tl.where(scale > 0.0, ratio, limit), 0.0)


@triton.jit
def l1_move(d, m, step, threshold):
    """One entry of the l1-penalised move: the new displacement from the image."""
    from_zero = m - clip(m, -threshold, threshold)
    slope = tl.where(d > 0.0, m - threshold, tl.where(d < 0.0, m + threshold, from_zero))
    moved = d + signed_step(step, slope)
    crosses = ((d > 0.0) & (moved < 0.0)) | ((d < 0.0) & (moved > 0.0))
    return tl.where(crosses & (tl.abs(m) <= threshold), 0.0, moved)


@triton.jit
def l2_slope(d, m, size, slope_size, threshold):
    """One entry of the l2-penalised move: the slope of the whole objective."""
    from_zero = tl.where(slope_size > threshold, m, 0.0)
    return tl.where(size == 0.0, from_zero, m - threshold * divided(d, size))


@triton.jit
def linf_level(level, step, on_level, passing, threshold):
    """The l_inf level after a step, from the weights of entries on it and of those passing it."""
    sunk = level - step
    sunk = tl.where(sunk > 0.0, sunk, 0.0)
    stays = tl.where(passing > threshold, level, sunk)
    return tl.where(on_level > threshold, level + step, stays)


@triton.jit
def sigmoid(odds):
    """F of logit(F), without cancellation; in float64."""
    e = tl.exp(-tl.abs(odds))
    return tl.where(odds >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def log_sigmoid(odds):
    """log F of logit(F), without cancellation; in float64."""
    e = tl.exp(-tl.abs(odds))
    u = 1.0 + e
    log_u = tl.log(u) - ((u - 1.0) - e) / u  # log(1 + e) to the last digits
    return tl.where(odds >= 0.0, -log_u, odds - log_u)


@triton.jit
def rankable(v):
    """What entries are compared as: float32 or float64; NaN ranks with minus infinity."""
    wide = widened(v)
    return tl.where(wide == wide, wide, float("-inf"))


@triton.jit
def mix(bits):
    """The splitmix64 finaliser (Steele, Lea, Flood 2014), on uint64."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    return bits ^ (bits >> 31)


@triton.jit
def philox(c0, c1, c2, key):
    """Philox4x32-10 (Salmon et al. 2011) at (c0, c1, c2, 0) in uint32, key in uint64."""
    c3 = tl.zeros_like(c0)
    c1 = c1 + c3
    c2 = c2 + c3
    k0 = key.to(tl.uint32)
    k1 = (key >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = second.to(tl.uint32)
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = first.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def uniform(word, DTYPE: tl.constexpr):
    """The upper 24 bits of a word as a number in [0, 1)."""
    return ((word >> 8).to(tl.float32) * 5.9604644775390625e-8).to(DTYPE)
