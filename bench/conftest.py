"""What every benchmark records beside its times: versions, commit, threads, processor."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

import hcnn_fast as hf

RIVALS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(
        processor=platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        build=hf.build_info(),
        rivals={name: _version(name) for name in RIVALS},
    )


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    commit_info.clear()
    commit_info.update(commit=commit())
