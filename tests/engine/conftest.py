"""A device whose work is captured: a GPU, and a CPU that plays the replays."""

from __future__ import annotations

import pytest
import torch
from played_graphs import played_passes, played_work

from hcnn_fast.engine import captured_passes, captured_steps, graphs, model, preparation


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="torch sees no CUDA device"
            ),
        ),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cpu":
        monkeypatch.setattr(captured_passes, "make_graphed_callables", played_passes)
        monkeypatch.setattr(captured_steps, "graph_of", played_work)
        monkeypatch.setattr(model, "can_capture", lambda device: True)
    monkeypatch.setenv(graphs.ENVIRONMENT, "1")
    monkeypatch.setattr(preparation, "_kept", type(preparation._kept)())
    return torch.device(request.param)
