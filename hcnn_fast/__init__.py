"""Fast defended inference: confidence search in the l_inf ball around each input."""

from hcnn_fast import attacks, data, evaluation, models, presets, reference, training
from hcnn_fast._version import __version__
from hcnn_fast.backends import build_info
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense, Prediction
from hcnn_fast.search import SearchResult, search

__all__ = [
    "Defense",
    "Prediction",
    "SearchConfig",
    "SearchResult",
    "__version__",
    "attacks",
    "build_info",
    "data",
    "evaluation",
    "models",
    "presets",
    "reference",
    "search",
    "training",
]
