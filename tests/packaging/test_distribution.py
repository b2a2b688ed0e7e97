"""What a user gets: the sdist, the wheel built from it, and what importing the package costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "
CALL_BACKEND = "from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
SHIPPED_DATA = ("hcnn_fast/models/weights", "hcnn_fast/data/samples")


def run(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # The caller's path is not the user's, and a warning is not an error in pip.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONWARNINGS")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | (env or {}),
        capture_output=True,
        text=True,
    )


def run_python(code: str, *arguments: str | Path, cwd: Path) -> str:
    done = run(sys.executable, "-c", code, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files(folder: str, *suffixes: str) -> set[str]:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {name for name in found if not suffixes or name.endswith(suffixes)}


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built in a process that has no torch."""
    folder = tmp_path_factory.mktemp("sdist")
    code = WITHOUT_TORCH + CALL_BACKEND.format(hook="build_sdist")
    run_python(code, folder, cwd=ROOT)
    (archive,) = folder.glob("hcnn_fast-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def source_names(source_archive: Path) -> set[str]:
    with tarfile.open(source_archive) as archive:
        names = archive.getnames()
    return {name.partition("/")[2] for name in names}


@pytest.fixture(scope="module")
def wheel(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist, for the CPU: the CUDA sources have their own checks."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps")
    done = run(
        *command,
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source_archive,
        cwd=folder,
        env={"HCNN_FAST_BUILD_CUDA": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("hcnn_fast-*.whl")
    return built


def test_sdist_carries_every_compiled_source(source_names: set[str]) -> None:
    sources = repository_files("csrc", ".cpp", ".h", ".cu", ".cuh")
    assert "csrc/library.cpp" in sources
    assert sources <= source_names


def test_sdist_carries_package_kernels_and_data(source_names: set[str]) -> None:
    assert repository_files("hcnn_fast", ".py", "py.typed") <= source_names
    assert repository_files("kernels", ".py") <= source_names
    for folder in SHIPPED_DATA:
        assert repository_files(folder) <= source_names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "Makefile"} <= source_names


def test_sdist_carries_nothing_built(source_names: set[str]) -> None:
    suffixes = (".so", ".o", ".pyc")
    assert not [name for name in source_names if name.endswith(suffixes)]
    assert not [
        name
        for name in source_names
        if name.startswith(("build/", "out/", "."))
        and name not in (".clang-format", ".pre-commit-config.yaml")
    ]


@pytest.mark.parametrize("hook", ["prepare_metadata_for_build_wheel", "build_wheel"])
def test_build_without_torch_stops_in_one_line(hook: str, tmp_path: Path) -> None:
    code = WITHOUT_TORCH + CALL_BACKEND.format(hook=hook)
    done = run(sys.executable, "-c", code, tmp_path, cwd=ROOT)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("hcnn_fast: torch is needed to build")
    assert "pip install --no-build-isolation" in line


@pytest.mark.slow
def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"hcnn_fast", next(top for top in tops if top.endswith(".dist-info"))}
    assert repository_files("hcnn_fast", ".py", "py.typed") <= names
    for folder in SHIPPED_DATA:
        assert repository_files(folder) <= names
    assert {f"hcnn_fast/{name}" for name in repository_files("kernels", ".py")} <= names
    assert "hcnn_fast/_C.abi3.so" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.endswith((".cpp", ".h", ".cu")) for name in names)


@pytest.mark.slow
def test_wheel_runs_compiled_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = """
import importlib.util, sys
from pathlib import Path
site = Path(sys.argv[1])
sys.path.insert(0, str(site))
import hcnn_fast, hcnn_fast.kernels, hcnn_fast._C
for module in (hcnn_fast, hcnn_fast.kernels, hcnn_fast._C):
    assert site in Path(module.__file__).parents, module.__file__
assert importlib.util.find_spec("kernels") is None
info = hcnn_fast.build_info()
assert info["backends"]["cpu"] == "can run", info
assert info["compiled"]["openmp"] > 0, info
assert info["compiled"]["cuda"] is False, info
assert "HCNN_FAST_BUILD_CUDA" in info["compiled"]["cuda_reason"], info
"""
    run_python(code, site, cwd=elsewhere)


def test_installed_kernels_import_only_as_part_of_the_package(tmp_path: Path) -> None:
    code = """
import importlib.util
import hcnn_fast.kernels
assert importlib.util.find_spec("kernels") is None
"""
    run_python(code, cwd=tmp_path)


def test_import_stays_light(tmp_path: Path) -> None:
    """Optional packages stay out, unless torch itself brings them; under a second is added."""
    # Processor time: what else runs on the machine is not the package's doing.
    code = """
import sys, time
import numpy, torch
before = set(sys.modules)
start = time.process_time()
import hcnn_fast
seconds = time.process_time() - start
optional = {"matplotlib", "pyarrow", "ray", "rich", "torchvision", "triton", "typer"}
added = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not added & optional, added & optional
print(seconds)
"""
    seconds = statistics.median(float(run_python(code, cwd=tmp_path)) for _ in range(3))
    assert seconds < 1.0
