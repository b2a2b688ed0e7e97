"""The experiments of Wu et al. 2018: resumable runs, and what their rows say."""

from collections.abc import Mapping

from hcnn_fast.experiments.adaptive import ADAPTIVE
from hcnn_fast.experiments.chunks import ChunkStore, open_store
from hcnn_fast.experiments.experiment import (
    NATURAL,
    ROBUST,
    Drawing,
    Evidence,
    Experiment,
    Findings,
    Subject,
    TextTable,
    Work,
)
from hcnn_fast.experiments.masking import MASKING
from hcnn_fast.experiments.recovery import RECOVERY
from hcnn_fast.experiments.rejection import REJECTION
from hcnn_fast.experiments.run import Task, chosen_points, evidence, points_done, run_chunks
from hcnn_fast.experiments.separation import SEPARATION
from hcnn_fast.experiments.settings import Budget, Settings

# A new experiment is one more value here: the command, its help and its report follow.
EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (SEPARATION, REJECTION, RECOVERY, MASKING, ADAPTIVE)
}

__all__ = [
    "EXPERIMENTS",
    "NATURAL",
    "ROBUST",
    "Budget",
    "ChunkStore",
    "Drawing",
    "Evidence",
    "Experiment",
    "Findings",
    "Settings",
    "Subject",
    "Task",
    "TextTable",
    "Work",
    "chosen_points",
    "evidence",
    "open_store",
    "points_done",
    "run_chunks",
]
