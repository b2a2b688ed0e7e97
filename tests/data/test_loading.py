"""Data sets by name: where they are found, and what is said when they are not."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hcnn_fast import data
from hcnn_fast.data import ImageDataset, loading


@pytest.fixture(autouse=True)
def no_data_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DEBIAN", tmp_path / "no-package")
    monkeypatch.setenv("HCNN_FAST_DATA", str(tmp_path / "empty"))


def write_idx(folder: Path, prefix: str, dataset: ImageDataset, *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images-idx3", dataset.images[:, 0]), ("labels-idx1", dataset.labels)):
        sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
        content = bytes((0, 0, 8, values.ndim)) + sizes + values.to(torch.uint8).numpy().tobytes()
        path = folder / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content, 1) if packed else content)


def test_sample_ships_with_1024_plausible_images() -> None:
    sample = data.load("fashion-mnist-sample")
    assert sample.images.shape == (1024, 1, 28, 28)
    assert sample.split == "test"
    assert sample.labels.bincount().min() >= 80
    assert len(sample.class_names) == 10
    assert loading.SAMPLE.with_name("LICENSE-fashion-mnist.txt").is_file()
    trousers, bags = (sample.scaled()[sample.labels == c] for c in (1, 8))
    assert bags.mean() > 1.3 * trousers.mean()  # a bag fills the picture, trousers do not


def test_sample_is_the_beginning_of_the_test_set() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    whole = data.load("fashion-mnist", "test", folder)
    sample = data.load("fashion-mnist-sample")
    assert torch.equal(whole.images[:1024], sample.images)
    assert torch.equal(whole.labels[:1024], sample.labels)


def test_sample_has_no_training_split() -> None:
    with pytest.raises(ValueError, match="split is 'train', expected 'test'"):
        data.load("fashion-mnist-sample", "train")


@pytest.mark.parametrize(
    ("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_found_as_torchvision_lays_them_out(
    tmp_path: Path, name: str, folder: str, packed: bool
) -> None:
    sample = data.load("fashion-mnist-sample")
    write_idx(tmp_path / folder / "raw", "t10k", sample.first(50), packed=packed)
    write_idx(tmp_path / folder / "raw", "train", sample.first(70), packed=packed)
    for split, count in (("test", 50), ("train", 70)):
        loaded = data.load(name, split, tmp_path)
        assert torch.equal(loaded.images, sample.images[:count])
        assert torch.equal(loaded.labels, sample.labels[:count])
        assert (loaded.name, loaded.split) == (name, split)


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCNN_FAST_DATA", str(tmp_path))
    sample = data.load("fashion-mnist-sample").first(9)
    write_idx(tmp_path / "MNIST" / "raw", "t10k", sample, packed=False)
    assert len(data.load("mnist")) == 9
    monkeypatch.delenv("HCNN_FAST_DATA")
    assert data.data_root() == Path("~/.cache/hcnn_fast").expanduser()


def test_fashion_mnist_is_found_where_debian_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DEBIAN", tmp_path / "debian")
    write_idx(tmp_path / "debian", "t10k", data.load("fashion-mnist-sample").first(5), packed=True)
    assert len(data.load("fashion-mnist")) == 5
    with pytest.raises(FileNotFoundError):
        data.load("mnist")


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "cifar10"])
def test_missing_files_say_how_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="--download") as caught:
        data.load(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert ("apt install dataset-fashion-mnist" in str(caught.value)) == (name == "fashion-mnist")
    assert "\n" not in str(caught.value)


def test_unknown_names_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        data.load("fashion_mnist")
    with pytest.raises(ValueError, match="expected one of fashion-mnist"):
        data.load("imagenet")
    with pytest.raises(ValueError, match="split is 'validation'"):
        data.load("mnist", "validation")


def test_images_and_labels_of_different_length_are_refused(tmp_path: Path) -> None:
    sample = data.load("fashion-mnist-sample")
    write_idx(tmp_path, "t10k", sample.first(5), packed=False)
    write_idx(tmp_path / "other", "t10k", sample.first(4), packed=False)
    labels = "t10k-labels-idx1-ubyte"
    (tmp_path / labels).write_bytes((tmp_path / "other" / labels).read_bytes())
    with pytest.raises(ValueError, match="do not belong together"):
        data.load("fashion-mnist", root=tmp_path)


def test_corrupt_cifar10_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="incomplete or corrupt"):
        data.load("cifar10", root=tmp_path)


def test_missing_torchvision_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "hcnn_fast\[cli\]"'):
        data.load("mnist", root=tmp_path, download=True)


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading t10k\nwith more lines")

    monkeypatch.setattr(loading, "_torchvision", lambda: SimpleNamespace(MNIST=offline))
    with pytest.raises(RuntimeError, match="MNIST could not be downloaded") as caught:
        data.load("mnist", root=tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_clothes_and_objects_may_be_mirrored_and_signs_may_not() -> None:
    mirrored = {name for name in data.NAMES if data.mirrors(name)}
    assert mirrored == {"fashion-mnist", "fashion-mnist-sample", "cifar10"}
