"""Manifolds by name: a known one by that of its data set, a learned one by its file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import get_args

import torch

from hcnn_fast.manifolds.class_vae import load_manifold
from hcnn_fast.manifolds.glyphs import PREFIX, Variant, known_glyphs
from hcnn_fast.manifolds.manifold import Manifold


def manifold_of(name: str, device: torch.device) -> Manifold:
    """A manifold on which training images can be placed.

    Args:
        name: "glyphs-easy", "glyphs-moderate" or "glyphs-hard", whose training images are known,
            or a `.safetensors` file, see `load_manifold`.
        device: where codes are decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no such name; suggests the nearest.
    """
    for variant in get_args(Variant):
        if name == f"{PREFIX}{variant}":
            return known_glyphs(variant)
    if name.endswith(".safetensors"):
        return load_manifold(Path(name)).to(device)
    known = [f"{PREFIX}{variant}" for variant in get_args(Variant)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "expected one of " + ", ".join(known)
    raise ValueError(f"manifold is {name!r}; {hint} (a learned one: its .safetensors file)")
