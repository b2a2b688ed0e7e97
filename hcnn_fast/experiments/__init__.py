"""The experiments of the source papers: resumable runs, and what their rows say."""

from collections.abc import Mapping

from hcnn_fast.experiments.adaptive import ADAPTIVE
from hcnn_fast.experiments.ccat import CCAT_EXPERIMENT
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
from hcnn_fast.experiments.label_smoothing import LABEL_SMOOTHING
from hcnn_fast.experiments.loss_family import LOSS_FAMILY
from hcnn_fast.experiments.masking import MASKING
from hcnn_fast.experiments.peers import PEERS_EXPERIMENT
from hcnn_fast.experiments.recovery import RECOVERY
from hcnn_fast.experiments.rejection import REJECTION
from hcnn_fast.experiments.run import Task, chosen_points, evidence, points_done, run_chunks
from hcnn_fast.experiments.separation import SEPARATION
from hcnn_fast.experiments.settings import Budget, Settings, Training
from hcnn_fast.experiments.trained import trained_family

# A new experiment is one more value here: the command, its help and its report follow.
EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        SEPARATION,
        REJECTION,
        RECOVERY,
        MASKING,
        ADAPTIVE,
        PEERS_EXPERIMENT,
        LABEL_SMOOTHING,
        LOSS_FAMILY,
        CCAT_EXPERIMENT,
    )
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
    "Training",
    "Work",
    "chosen_points",
    "evidence",
    "open_store",
    "points_done",
    "run_chunks",
    "trained_family",
]
