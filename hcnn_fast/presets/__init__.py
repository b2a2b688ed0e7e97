"""Published defences that climb at inference, as settings of the same engine.

None of them is known to make a classifier more robust: Croce et al. 2022 ("Evaluating the
Adversarial Robustness of Adaptive Test-time Defenses") attacked nine defences of this kind and
found none clearly better than the classifier inside. Attack them as a whole, and with the points
that break the classifier alone, before you trust one.
"""

from hcnn_fast.presets.anti_adversary import anti_adversary
from hcnn_fast.presets.cpr import cpr
from hcnn_fast.presets.hedge import hedge
from hcnn_fast.presets.pnml import pnml
from hcnn_fast.presets.result import PresetResult

__all__ = ["PresetResult", "anti_adversary", "cpr", "hedge", "pnml"]
