"""Which implementation runs, and what is said where one cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_classifiers import Counting, images, linear

import hcnn_fast as hf
from hcnn_fast import backends

UNAVAILABLE = [name for name, why in backends.reasons().items() if why is not None]
needs_one_that_cannot = pytest.mark.skipif(not UNAVAILABLE, reason="every backend can run here")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Let `resolve` read the environment anew, in this test and after it."""
    backends.resolve.cache_clear()
    yield
    backends.resolve.cache_clear()


def test_the_reference_can_always_run() -> None:
    assert backends.reasons()["reference"] is None
    assert set(backends.reasons()) == {"reference", "cpu", "cuda", "triton"}


def test_an_extension_without_an_operation_is_said_to_be_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if backends.reasons()["cpu"] is not None:
        pytest.skip("the extension does not load")
    monkeypatch.setattr(backends, "OPERATIONS", (*backends.OPERATIONS, "of_tomorrow"))
    reason = backends._load_extension.__wrapped__()
    assert reason is not None
    assert "older than the package, without of_tomorrow" in reason
    assert backends.REBUILD in reason


def test_auto_takes_the_compiled_operations_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.delenv("HCNN_FAST_BACKEND", raising=False)
    expected = "cpu" if backends.reasons()["cpu"] is None else "reference"
    assert backends.resolve("auto", "cpu") == expected


def test_auto_falls_back_to_the_reference_on_other_devices(fresh: None) -> None:
    assert backends.resolve("auto", "mps") == "reference"


@needs_one_that_cannot
@pytest.mark.parametrize("name", UNAVAILABLE)
def test_an_explicit_backend_that_cannot_run_says_why_and_what_mends_it(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"^backend '{name}' cannot run: ") as caught:
        backends.resolve(name, "cpu")
    reason = backends.reasons()[name]
    assert reason is not None
    assert reason in str(caught.value)
    assert any(word in reason for word in ("pip install", "use ", "no CUDA device"))


@needs_one_that_cannot
@pytest.mark.parametrize("name", UNAVAILABLE)
def test_a_search_with_a_backend_that_cannot_run_stops_before_the_model_is_called(
    name: str,
) -> None:
    model = Counting(linear())
    config = hf.SearchConfig.mcn(0.1, backend=name)
    with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run"):
        hf.search(model, images(), config)
    with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run"):
        hf.attacks.pgd(model, images(), torch.zeros(4).long(), radius=0.1, backend=name)
    assert model.calls == 0


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_tensors_on_another_device_than_the_backend_are_named(name: str) -> None:
    if backends.reasons()[name] is not None:
        pytest.skip(f"backend {name!r}: {backends.reasons()[name]}")
    with pytest.raises(RuntimeError, match=r"tensors are on 'mps'.*use 'auto'"):
        backends.resolve(name, "mps")


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'opencl', expected 'auto' or one of"):
        backends.resolve("opencl", "cpu")


def test_the_environment_replaces_auto_alone(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setenv("HCNN_FAST_BACKEND", "reference")
    assert backends.resolve("auto", "cpu") == "reference"
    if backends.reasons()["cpu"] is None:
        assert backends.resolve("cpu", "cpu") == "cpu"


def test_a_wrong_name_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setenv("HCNN_FAST_BACKEND", "fastest")
    with pytest.raises(ValueError, match="HCNN_FAST_BACKEND is 'fastest', expected 'auto'"):
        hf.search(linear(), images(), hf.SearchConfig.mcn(0.1))


@needs_one_that_cannot
def test_a_backend_in_the_environment_that_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setenv("HCNN_FAST_BACKEND", UNAVAILABLE[0])
    with pytest.raises(RuntimeError, match=f"HCNN_FAST_BACKEND '{UNAVAILABLE[0]}' cannot run"):
        hf.search(linear(), images(), hf.SearchConfig.mcn(0.1))


SEARCH_IN_A_NEW_PROCESS = """
import torch, hcnn_fast as hf
from hcnn_fast import backends
hf.search(lambda z: z, torch.rand(2, 3), hf.SearchConfig.mcn(0.1, steps=1))
print(backends.resolve("auto", "cpu"))
"""


def test_a_new_process_reads_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCH_IN_A_NEW_PROCESS],
        env={**os.environ, "HCNN_FAST_BACKEND": "reference", "OMP_NUM_THREADS": "1"},
        cwd=Path(hf.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "reference"


def test_a_missing_extension_leaves_the_reference_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.delenv("HCNN_FAST_BACKEND", raising=False)
    broken = "the compiled extension does not load (no such file); build it: pip install"
    monkeypatch.setattr(backends, "_load_extension", lambda: broken)
    backends._unavailable.cache_clear()
    try:
        assert backends.resolve("auto", "cpu") == "reference"
        with pytest.raises(RuntimeError, match=r"does not load .*build it: pip install"):
            backends.resolve("cpu", "cpu")
        result = hf.search(linear(), images(), hf.SearchConfig.mcn(0.1, steps=2))
        assert result.value.shape == (4,)
    finally:
        backends._unavailable.cache_clear()


def test_build_info_tells_versions_and_backends_as_json() -> None:
    info = hf.build_info()
    assert json.loads(json.dumps(info)) == info
    assert info["hcnn_fast"] == hf.__version__
    assert info["torch"] == torch.__version__
    assert info["backends"]["reference"] == "can run"
    assert all(info["backends"][name] == backends.reasons()[name] for name in UNAVAILABLE)
    if backends.reasons()["cpu"] is None:
        assert set(info["compiled"]) >= {"cuda", "cuda_archs", "cuda_reason", "openmp", "compiler"}


def test_a_search_keeps_to_the_float32_products_that_the_process_has_chosen() -> None:
    switches = {"matrices": torch.backends.cuda.matmul, "convolutions": torch.backends.cudnn.conv}
    before = hf.build_info()["cuda_float32_products"]
    try:
        for chosen in ("tf32", "ieee"):
            for switch in switches.values():
                switch.fp32_precision = chosen
            hf.search(linear(), images(), hf.SearchConfig.mcn(0.1, steps=2, precision="bfloat16"))
            assert hf.build_info()["cuda_float32_products"] == dict.fromkeys(switches, chosen)
    finally:
        for name, switch in switches.items():
            switch.fp32_precision = before[name]
    assert hf.build_info()["cuda_float32_products"] == before


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_both_backends_find_the_same_points(name: str) -> None:
    if backends.reasons()[name] is not None:
        pytest.skip(f"backend {name!r}: {backends.reasons()[name]}")
    config = hf.SearchConfig.hcnn(0.1, 0.2, "l2", steps=5, starts=2)
    expected = hf.search(linear(), images(), config.replace(backend="reference"))
    got = hf.search(linear(), images(), config.replace(backend=name))
    assert torch.equal(got.label, expected.label)
    torch.testing.assert_close(got.value, expected.value, rtol=1e-6, atol=1e-7)
