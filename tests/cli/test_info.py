"""`info` tells what the library tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.models.registry import TRAINED

Run = Callable[..., Any]  # the fixture of conftest.py


def test_info_as_json_holds_build_models_and_data_sets(run: Run, folder: Path) -> None:
    code, out, err = run("info", "--json", "--data-root", folder)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["build"] == hf.build_info()
    assert found["models"] == {name: models.card(name) for name in TRAINED}
    assert set(found["datasets"]) == set(data.NAMES)
    assert found["datasets"]["fashion-mnist-sample"] == {"test": 1024}
    assert f"mnist is not in {folder}" in found["datasets"]["mnist"]["train"]


def test_info_names_every_backend_model_and_data_set(run: Run, folder: Path) -> None:
    code, out, err = run("info", "--data-root", folder)
    assert (code, err) == (0, "")
    for name in (*hf.build_info()["backends"], *TRAINED, *data.NAMES):
        assert name in out
