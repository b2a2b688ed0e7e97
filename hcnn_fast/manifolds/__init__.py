"""Manifolds of images: known and learned ones, attacks along them, and distances to them."""

from hcnn_fast.manifolds.class_vae import ClassVae, LearnedManifold, load_manifold
from hcnn_fast.manifolds.distance import (
    ManifoldDistance,
    Tangent,
    angle_between,
    manifold_distance,
    tangents,
)
from hcnn_fast.manifolds.glyphs import CodedGlyphs, GlyphManifold, coded_glyphs, known_glyphs
from hcnn_fast.manifolds.latent_attack import OnManifoldResult, on_manifold
from hcnn_fast.manifolds.manifold import Coded, Decoder, LatentBox, Manifold
from hcnn_fast.manifolds.named import manifold_of
from hcnn_fast.manifolds.projection import Projection, project

__all__ = [
    "ClassVae",
    "Coded",
    "CodedGlyphs",
    "Decoder",
    "GlyphManifold",
    "LatentBox",
    "LearnedManifold",
    "Manifold",
    "ManifoldDistance",
    "OnManifoldResult",
    "Projection",
    "Tangent",
    "angle_between",
    "coded_glyphs",
    "known_glyphs",
    "load_manifold",
    "manifold_distance",
    "manifold_of",
    "on_manifold",
    "project",
    "tangents",
]
