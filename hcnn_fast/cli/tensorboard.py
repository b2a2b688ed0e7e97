"""The curves of a training run for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hcnn_fast.training import EpochReport

FOLDER = "tensorboard"


@contextmanager
def epoch_curves(output: Path, *, wanted: bool) -> Iterator[Callable[[EpochReport], None]]:
    """Yields what adds an epoch to the curves in `output`/tensorboard, or does nothing.

    Args:
        output: folder of the run; a resumed run adds to the curves that are there.
        wanted: whether curves are written.

    Raises:
        ImportError: tensorboard is not installed; says how to get it.
    """
    if not wanted:
        yield lambda report: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('tensorboard is missing: pip install "hcnn_fast[tensorboard]"') from error
    writer = SummaryWriter(str(output / FOLDER))

    def add(report: EpochReport) -> None:
        for name, value in (
            ("loss", report.loss),
            ("accuracy/trained on", report.accuracy),
            ("accuracy/held out", report.validation_clean),
            ("accuracy/held out, attacked", report.validation_robust),
            ("seconds", report.seconds),
        ):
            if not math.isnan(value):  # no images are held out
                writer.add_scalar(name, value, report.epoch)
        writer.flush()

    try:
        yield add
    finally:
        writer.close()
