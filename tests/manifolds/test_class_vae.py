"""The class-wise autoencoder: its divergence, its classes, and a manifold that is read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hcnn_fast import data
from hcnn_fast.manifolds import ClassVae, LatentBox, LearnedManifold, load_manifold, on_manifold
from hcnn_fast.manifolds.class_vae import divergence_from_prior, reconstruction_loss
from hcnn_fast.training.checkpoint import save_weights

SHAPE, CLASSES, LATENT = (1, 4, 4), 3, 2


def vae(seed: int = 0) -> ClassVae:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return ClassVae(SHAPE, CLASSES, latent=LATENT, hidden=8)


def manifold() -> LearnedManifold:
    side = torch.full((LATENT,), 2.0)
    return LearnedManifold(vae(), LatentBox(-side, side))


def test_the_divergence_is_that_of_many_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([[0.5, -1.0], [0.0, 2.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.3, -0.7], [-2.0, 0.0]], dtype=torch.float64)
    noise = torch.randn(400_000, 2, 2, generator=generator, dtype=torch.float64)
    z = mean + torch.exp(0.5 * log_variance) * noise
    log_ratio = 0.5 * (z.square() - noise.square() - log_variance).sum(2)  # log q - log p
    error = log_ratio.std(0) / len(noise) ** 0.5
    found = divergence_from_prior(mean, log_variance)
    assert bool(((log_ratio.mean(0) - found).abs() < 4 * error).all())


def test_the_divergence_is_0_at_the_prior_alone() -> None:
    zero = torch.zeros(1, 5)
    assert float(divergence_from_prior(zero, zero)) == 0.0
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 200, 5, generator=generator).unbind(0)
    assert float(divergence_from_prior(mean, log_variance).min()) > 0.0
    assert float(divergence_from_prior(zero + 1e-2, zero)) > 0.0
    assert float(divergence_from_prior(zero, zero + 1e-2)) > 0.0


def test_reconstruction_errors_are_sums_over_pixels() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    images = torch.tensor([[[[1.0, 0.0]]]])
    p = torch.sigmoid(torch.tensor(2.0))
    l1 = 0.5 + p
    assert torch.allclose(reconstruction_loss(logits, images, "l1"), l1[None])
    bernoulli = -torch.log(torch.tensor(0.5)) - torch.log(1 - p)
    assert torch.allclose(reconstruction_loss(logits, images, "bernoulli"), bernoulli[None])


def test_every_row_passes_the_networks_of_its_class_in_any_order() -> None:
    net, y = vae(), torch.tensor([2, 0, 2, 1, 0])
    x = torch.rand(5, *SHAPE)
    mean, log_variance = net.posterior(x, y)
    images = net(mean, y)
    for row, label in enumerate(y.tolist()):
        both = net.encoders[label](x[row].flatten())
        torch.testing.assert_close(torch.cat([mean[row], log_variance[row]]), both)
        expected = torch.sigmoid(net.decoders[label](mean[row])).view(SHAPE)
        torch.testing.assert_close(images[row], expected)


def test_codes_are_the_means_within_the_box_and_the_weights_are_frozen() -> None:
    learned, x, y = manifold(), torch.rand(5, *SHAPE), torch.tensor([0, 1, 2, 1, 0])
    coded = learned.encode(x, y)
    mean, _ = learned.vae.posterior(x, y)
    assert torch.equal(coded.code, mean.clamp(-2.0, 2.0))
    assert torch.equal(coded.condition, y)
    assert not any(p.requires_grad for p in learned.vae.parameters())
    tight = LearnedManifold(vae(), LatentBox(torch.zeros(2), torch.zeros(2)))
    assert torch.equal(tight.encode(x, y).code, torch.zeros(5, 2))


def test_an_attack_along_it_at_radius_0_is_the_reconstruction() -> None:
    learned, x, y = manifold(), torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 1])
    coded = learned.encode(x, y)

    def model(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :CLASSES]

    found = on_manifold(model, learned.decode, coded, y, radius=0.0, box=learned.box)
    assert torch.equal(found.point, learned.decode(coded.code, y))
    moved = on_manifold(model, learned.decode, coded, y, radius=0.5, box=learned.box)
    rise = moved.value - found.value
    assert float(rise.min()) > -1e-3  # steps are finite: one at a summit may pass over it
    assert float(rise.max()) > 5e-3


def test_a_saved_manifold_is_read_back(tmp_path: Path) -> None:
    learned, path = manifold(), tmp_path / "manifold.safetensors"
    save_weights(path, learned.vae.state_dict(), learned.card())
    found = load_manifold(path)
    code, y = torch.randn(3, LATENT), torch.tensor([0, 2, 1])
    assert torch.equal(found.decode(code, y), learned.decode(code, y))
    assert torch.equal(found.box.upper, learned.box.upper)


def test_files_that_hold_no_manifold_are_refused(tmp_path: Path) -> None:
    learned, path = manifold(), tmp_path / "manifold.safetensors"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_manifold(path)
    save_weights(path, learned.vae.state_dict(), {"architecture": "small-cnn"})
    with pytest.raises(ValueError, match="not the card of a learned manifold"):
        load_manifold(path)
    save_weights(path, learned.vae.state_dict(), {**learned.card(), "hidden": 9})
    with pytest.raises(ValueError, match="does not fit its card"):
        load_manifold(path)
    path.with_suffix(".json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="not the card of a learned manifold"):
        load_manifold(path)


def test_images_of_another_shape_or_class_are_refused() -> None:
    learned = manifold()
    sample = data.load("fashion-mnist-sample").first(2)
    with pytest.raises(ValueError, match=r"images have shape \[1, 28, 28\]"):
        learned.encode(sample.scaled(), sample.labels)
    with pytest.raises(ValueError, match="expected 0 <= label < 3"):
        learned.encode(torch.rand(1, *SHAPE), torch.tensor([3]))
