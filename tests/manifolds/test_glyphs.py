"""The glyphs: prototypes, codes in their box, images that their codes give, and the way back."""

from __future__ import annotations

import pytest
import torch

from hcnn_fast import data
from hcnn_fast.manifolds.fonts import FONTS, LETTERS, prototypes
from hcnn_fast.manifolds.glyphs import (
    GlyphManifold,
    coded_glyphs,
    decode_glyphs,
    known_glyphs,
    latent_box,
)


def test_every_letter_of_every_font_is_another_image_that_lies_within_its_frame() -> None:
    shapes = prototypes()
    assert shapes.shape == (len(FONTS) * len(LETTERS), 1, 28, 28)
    assert len(torch.unique(shapes.flatten(1), dim=0)) == len(shapes)
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert float(shapes[:, 0, frame].max()) == 0.0
    ink = shapes.flatten(1).sum(1)
    assert float(ink.min()) > 25.0
    assert float(shapes.max()) == 1.0


def test_a_letter_resembles_itself_in_other_fonts_more_than_other_letters() -> None:
    shapes = prototypes().view(len(FONTS), len(LETTERS), -1)
    mean = shapes.mean(0)  # [10, 784]
    nearest = torch.cdist(shapes.flatten(0, 1), mean).argmin(1)  # [P]
    right = nearest == torch.arange(len(nearest)) % len(LETTERS)
    assert float(right.float().mean()) > 0.8


@pytest.mark.parametrize("variant", ["easy", "moderate", "hard"])
def test_images_are_what_their_codes_decode_to_and_codes_fill_the_box(variant: str) -> None:
    made = coded_glyphs(variant, "test", images=800)
    box = latent_box(variant)
    code, condition = made.coded.code, made.coded.condition
    assert bool(((code >= box.lower) & (code <= box.upper)).all())
    width = box.upper - box.lower
    assert bool((code.amin(0) < box.lower + 0.02 * width).all())
    assert bool((code.amax(0) > box.upper - 0.02 * width).all())
    assert torch.equal(made.data.labels, condition % 10)
    off = (decode_glyphs(code, condition) - made.data.scaled()).abs().max()
    assert float(off) <= 0.5 / 255 + 1e-6


def test_splits_and_seeds_differ_and_fewer_images_are_the_first_of_more() -> None:
    train = coded_glyphs("hard", "train", images=50)
    assert torch.equal(coded_glyphs("hard", "train", images=20).data.images, train.data.images[:20])
    for other in (
        coded_glyphs("hard", "test", images=50),
        coded_glyphs("hard", "train", images=50, seed=1),
    ):
        assert not torch.isin(other.coded.code, train.coded.code).any()


def test_known_images_are_placed_where_they_came_from_and_others_are_refused() -> None:
    made = coded_glyphs("moderate", "train", images=40)
    manifold = GlyphManifold("moderate", made)
    rows = torch.tensor([7, 3, 39])
    images = made.data.scaled()[rows]
    found = manifold.encode(images, made.data.labels[rows])
    assert torch.equal(found.code, made.coded.code[rows])
    assert torch.equal(found.condition, made.coded.condition[rows])
    mirrored = torch.cat([images[:2], images[2:].flip(3)])
    with pytest.raises(ValueError, match="1 of 3 images are not among"):
        manifold.encode(mirrored, made.data.labels[rows])
    with pytest.raises(ValueError, match="1 of 3 images are not among"):
        manifold.encode(images, made.data.labels[rows] + torch.tensor([0, 0, 1]))


def test_the_data_set_of_a_variant_loads_by_name_and_is_known_to_its_manifold() -> None:
    train = data.load("glyphs-easy", "train")
    assert (len(train), train.name, train.class_names) == (40_000, "glyphs-easy", LETTERS)
    found = known_glyphs("easy").encode(train.scaled()[-5:], train.labels[-5:])
    assert torch.equal(found.code, coded_glyphs("easy", "train").coded.code[-5:])
    assert len(data.load("glyphs-easy", "test")) == 10_000


def test_unknown_variants_splits_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="variant is 'harder', expected one of easy"):
        latent_box("harder")
    with pytest.raises(ValueError, match="split is 'valid', expected 'train' or 'test'"):
        coded_glyphs("hard", "valid")
    with pytest.raises(ValueError, match="images is 0, expected 1 or more"):
        coded_glyphs("hard", "train", images=0)
