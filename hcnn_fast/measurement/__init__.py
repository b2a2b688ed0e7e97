"""What a search costs: time in and outside the model, work, memory, and what users loop over."""

from hcnn_fast.measurement.clock import ClockedModel, ModelClock
from hcnn_fast.measurement.figures import CostFigures
from hcnn_fast.measurement.observation import Observation, Outcome, observe, time_rounds
from hcnn_fast.measurement.peak_memory import PeakMemory
from hcnn_fast.measurement.roofs import Roofs, measure_roofs
from hcnn_fast.measurement.work import ModelWork, model_work

__all__ = [
    "ClockedModel",
    "CostFigures",
    "ModelClock",
    "ModelWork",
    "Observation",
    "Outcome",
    "PeakMemory",
    "Roofs",
    "measure_roofs",
    "model_work",
    "observe",
    "time_rounds",
]
