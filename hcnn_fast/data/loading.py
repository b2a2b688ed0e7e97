"""Data sets by name, from the disk, from the package, or downloaded."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.data.idx import read_idx

ENVIRONMENT = "HCNN_FAST_DATA"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SAMPLE = Path(__file__).parent / "samples" / "fashion-mnist-sample.npz"
SPLITS = ("train", "test")

FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DIGITS = tuple(str(digit) for digit in range(10))
GLYPHS = ("glyphs-easy", "glyphs-moderate", "glyphs-hard")
NAMES = ("fashion-mnist", "fashion-mnist-sample", "mnist", "cifar10", *GLYPHS)


def load(
    name: str,
    split: str = "test",
    root: str | Path | None = None,
    download: bool = False,
) -> ImageDataset:
    """A split of a data set, in memory.

    Args:
        name: "fashion-mnist", "mnist", "cifar10", or "fashion-mnist-sample": the first 1024 test
            images of Fashion-MNIST, which ship with the package; or "glyphs-easy",
            "glyphs-moderate", "glyphs-hard": letters that are drawn, see `manifolds.glyphs`.
        split: "train" or "test".
        root: folder of the files, as torchvision lays them out; None: the environment variable
            HCNN_FAST_DATA, else ~/.cache/hcnn_fast. Fashion-MNIST is also found where Debian's
            package dataset-fashion-mnist installs it.
        download: fetch missing files into root through torchvision.

    Raises:
        FileNotFoundError: the files are missing; says how to get them.
        ImportError: torchvision is needed and not installed; says how to get it.
        RuntimeError: the download failed.
        ValueError: unknown name (suggests the nearest) or split, or a corrupt file.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "expected one of " + ", ".join(NAMES)
        raise ValueError(f"data set is {name!r}; {hint}")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    if name == "fashion-mnist-sample":
        return _sample(split)
    if name in GLYPHS:
        return _glyphs(name, split)
    folder = data_root(root)
    if name == "cifar10":
        return _cifar10(split, folder, download)
    if name == "mnist":
        return _mnist_family(name, "MNIST", DIGITS, split, folder, download)
    return _mnist_family(name, "FashionMNIST", FASHION_CLASSES, split, folder, download)


def mirrors(name: str) -> bool:
    """Whether mirrored images of a data set are of their class still: digits and letters are not.

    Args:
        name: as for `load`.
    """
    return name != "mnist" and name not in GLYPHS


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the data: the argument, else HCNN_FAST_DATA, else ~/.cache/hcnn_fast."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get(ENVIRONMENT) or "~/.cache/hcnn_fast").expanduser()


def _sample(split: str) -> ImageDataset:
    """The images that ship with the package."""
    if split != "test":
        raise ValueError(f"split is {split!r}, expected 'test' for 'fashion-mnist-sample'")
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"])  # [1024, 1, 28, 28] uint8
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))  # [1024]
    return ImageDataset(images, labels, FASHION_CLASSES, "fashion-mnist-sample", split)


def _glyphs(name: str, split: str) -> ImageDataset:
    """Letters of a known manifold, the same in every call."""
    from hcnn_fast.manifolds.glyphs import PREFIX, coded_glyphs  # which builds on data sets

    variant, part = name.removeprefix(PREFIX), "train" if split == "train" else "test"
    return coded_glyphs(variant, part).data  # type: ignore[arg-type]  # both were looked up


def _mnist_family(
    name: str,
    torchvision_name: str,
    class_names: tuple[str, ...],
    split: str,
    root: Path,
    download: bool,
) -> ImageDataset:
    """Images and labels of one of the sets that come as IDX files."""
    prefix = "train" if split == "train" else "t10k"
    stems = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    found = _find(stems, name, torchvision_name, root)
    if found is None and download:
        _download(torchvision_name, root, split)
        found = _find(stems, name, torchvision_name, root)
    if found is None:
        raise _missing(name, root)
    images, labels = (read_idx(path) for path in found)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{found[0]} and {found[1]} do not belong together: "
            f"shapes {list(images.shape)} and {list(labels.shape)}"
        )
    return ImageDataset(images[:, None], labels.long(), class_names, name, split)


def _find(
    stems: tuple[str, str], name: str, torchvision_name: str, root: Path
) -> list[Path] | None:
    """Both files of a split in the first folder that has them, gzipped or not."""
    folders = [root / torchvision_name / "raw", root / name, root]
    if name == "fashion-mnist":
        folders.append(DEBIAN)
    elif root.name != name:  # files straight in root are taken for MNIST only if nothing says else
        folders.remove(root)
    for folder in folders:
        paths = [p for s in stems for p in (folder / s, folder / f"{s}.gz") if p.is_file()]
        by_stem = {path.name.removesuffix(".gz"): path for path in reversed(paths)}
        if len(by_stem) == len(stems):
            return [by_stem[stem] for stem in stems]
    return None


def _cifar10(split: str, root: Path, download: bool) -> ImageDataset:
    """CIFAR-10 through torchvision, which checks the files' hashes."""
    if not (root / "cifar-10-batches-py").is_dir() and not download:
        raise _missing("cifar10", root)
    if download:
        _download("CIFAR10", root, split)
    try:
        data = _torchvision().CIFAR10(str(root), train=split == "train")
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        folder = root / "cifar-10-batches-py"
        raise ValueError(
            f"{folder} is incomplete or corrupt; delete it and add --download (download=True)"
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
    labels = torch.tensor(data.targets, dtype=torch.int64)  # [N]
    return ImageDataset(images, labels, CIFAR_CLASSES, "cifar10", split)


def _download(torchvision_name: str, root: Path, split: str) -> None:
    """Fetch a data set into root."""
    dataset: Callable[..., Any] = getattr(_torchvision(), torchvision_name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"{torchvision_name} could not be downloaded to {root}: {reason}") from (
            error
        )


def _torchvision() -> Any:
    """The module torchvision.datasets."""
    try:
        import torchvision.datasets
    except ImportError as error:
        raise ImportError('torchvision is missing: pip install "hcnn_fast[cli]"') from error
    return torchvision.datasets


def _missing(name: str, root: Path) -> FileNotFoundError:
    """Where was looked, and how to get the files."""
    package = " or apt install dataset-fashion-mnist" if name == "fashion-mnist" else ""
    return FileNotFoundError(
        f"{name} is not in {root}; add --download (download=True){package}, "
        f"or name its folder with --data-root (root=) or {ENVIRONMENT}"
    )
