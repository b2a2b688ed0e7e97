"""The tables of the demo: every rate with its denominator and its exact 95% interval."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hcnn_fast.cli.demo_measurement import Condition, ModelMeasurement, Predictions

CLASSIFIERS = {"base": "base", "defended": "MCN"}
NOTES = (
    "MCN answers at the most confident point of the ball around the image; right and wrong are"
    " against the true label. Intervals are exact (Clopper-Pearson, 95%).",
    "Thresholds keep the given share of correct answers on clean held-out images (TPR); none of"
    " them is evaluated.",
    "AWPR and recall are over the images that the base model gets right when clean: AWPR counts"
    " those whose attacked version gets a wrong label, with rejection only where that is accepted.",
    "The attack is static: it targets the base model and does not know the search or the"
    " threshold. Only attacks on the whole defence can show robustness (hcnn-fast evaluate"
    " adaptive); for nine test-time defences of this kind Croce et al. (2022) found no clear gain"
    " over the base model under such attacks.",
)


def accuracy_table(measurement: ModelMeasurement, *, wide: bool = True) -> Table:
    """Accuracy, what rejection leaves of it, and in a wide table confidence and speed."""
    clean = measurement.conditions[0]
    count = measurement.calibration["base"].total
    table = Table(
        title=f"{measurement.name}: {len(measurement.targets)} images; thresholds"
        f" {clean.base.threshold:.3f} (base) and {clean.defended.threshold:.3f} (MCN) from"
        f" {count} others",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("images", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    table.add_column("right, without rejection", justify="right")
    extra = ("mean confidence", "images/s") if wide else ()
    for name in ("right and accepted", "wrong and accepted", "rejected", *extra):
        table.add_column(name, justify="right")
    for condition in measurement.conditions:
        for key, name in CLASSIFIERS.items():
            predictions: Predictions = getattr(condition, key)
            right = predictions.label == measurement.targets
            accepted = predictions.accepted
            total = len(right)
            confidence = f"{float(predictions.confidence.mean()):.3f}"
            speed = f"{total / predictions.seconds:,.0f}"
            table.add_row(
                condition.name if key == "base" else "",
                name,
                str(predictions.accuracy(measurement.targets)),
                f"{int((right & accepted).sum())}/{total}",
                f"{int((~right & accepted).sum())}/{total}",
                f"{int((~accepted).sum())}/{total}",
                *((confidence, speed) if wide else ()),
                end_section=key == "defended",
            )
    return table


def rejection_table(measurement: ModelMeasurement) -> Table:
    """Wrong answers that pass the threshold, in the terms of the paper."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("images", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    for name in ("AWPR", "AWPR with rejection", "recall (clean)"):
        table.add_column(name, justify="right")
    for condition in _attacked(measurement):
        for key, name in CLASSIFIERS.items():
            metrics = measurement.rejection(condition, key)
            table.add_row(
                condition.name if key == "base" else "",
                name,
                str(metrics.awpr_original),
                str(metrics.awpr_with_rejection),
                str(metrics.recall),
                end_section=key == "defended",
            )
    return table


def _attacked(measurement: ModelMeasurement) -> list[Condition]:
    return [condition for condition in measurement.conditions if condition.attack_radius > 0]
