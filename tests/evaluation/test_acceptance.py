"""Right, rejected or wrong, against a loop over the rows of each example."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from attempt_tables import KINDS, random_table

from hcnn_fast.evaluation import acceptance


@pytest.mark.parametrize("classifier", ["base", "defended"])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2 / 3, 1.01])
def test_examples_are_parted_as_their_rows_say(
    classifier: Literal["base", "defended"], threshold: float
) -> None:
    seen = set()
    for seed in range(6):
        table = random_table(seed, kind=KINDS[seed % 2])
        answers = table.answers(classifier)
        found = acceptance(table, classifier, threshold)
        for place, example in enumerate(table.example.unique().tolist()):
            rows = (table.example == example).nonzero()[:, 0].tolist()
            verdicts = set()
            for row in rows:
                said, label = int(answers.prediction[row]), int(table.label[row])
                if said == -1 or float(answers.confidence[row]) < threshold:
                    verdicts.add("rejected")
                else:
                    verdicts.add("right" if said == label else "wrong")
            expected = next(v for v in ("wrong", "rejected", "right") if v in verdicts)
            assert [n for n in vars(found) if bool(getattr(found, n)[place])] == [expected]
            seen.add(expected)
        assert sum(found.rate(name).count for name in vars(found)) == len(found.right)
    assert seen == ({"rejected"} if threshold > 1.0 else {"right", "rejected", "wrong"})


def test_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is nan"):
        acceptance(random_table(0), "base", math.nan)


def test_rates_keep_their_denominator() -> None:
    found = acceptance(random_table(0), "base", 0.5)
    for name, rate in found.to_dict().items():
        assert rate["count"] == int(getattr(found, name).sum())
        assert rate["total"] == 12
