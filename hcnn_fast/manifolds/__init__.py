"""Manifolds of images: known and learned ones, attacks along them, and distances to them."""

from hcnn_fast.manifolds.glyphs import CodedGlyphs, GlyphManifold, coded_glyphs, known_glyphs
from hcnn_fast.manifolds.latent_attack import OnManifoldResult, on_manifold
from hcnn_fast.manifolds.manifold import Coded, Decoder, LatentBox, Manifold

__all__ = [
    "Coded",
    "CodedGlyphs",
    "Decoder",
    "GlyphManifold",
    "LatentBox",
    "Manifold",
    "OnManifoldResult",
    "coded_glyphs",
    "known_glyphs",
    "on_manifold",
]
