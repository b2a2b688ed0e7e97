"""The stored table: one row per example and attempt, from which every metric is recomputed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from hcnn_fast.evaluation.answers import ANSWER_COLUMNS, Answers, as_column, refuse_rows

CLEAN = "clean"  # the attack's name in the rows of the images themselves
UNTARGETED = -1
NO_CLASS = -1  # label of inputs that show none, such as noise
NOT_RANKED = -1
NO_LOSS = -1.0

# Of |x' - x| over |allowed|, where both are float32 and a norm may add up thousands of entries.
ABSOLUTE_SLACK, RELATIVE_SLACK = 1e-6, 1e-5

Classifier = Literal["base", "defended"]

TEXT_COLUMNS = ("attack", "norm")
NUMBER_COLUMNS: dict[str, torch.dtype] = {
    "example": torch.int64,
    "label": torch.int64,
    "target": torch.int64,
    "radius": torch.float64,
    "distance": torch.float64,
    "restart": torch.int64,
    "seed": torch.int64,
    "gradient_steps": torch.int64,
    "queries": torch.int64,
    "label_rank": torch.int64,
    "loss": torch.float64,
}
KEY = ("example", "attack", "norm", "radius", "target", "restart", "seed")


@dataclass(frozen=True, kw_only=True)
class AttemptTable:
    """What base and defended classifier say at every point that was tried, one row each.

    The images themselves are rows of the attack "clean". Restarts, targets and attacks are rows of
    their own, so that the worst case is taken per example and for the event in question (spec B.6).

    Attributes:
        example: [R] int64 id of the example.
        label: [R] int64 its true class; -1 for inputs that show no class, such as noise.
        attack: R names; what stands behind a name belongs into `metadata`.
        norm: R names of the norm of `radius` and `distance`.
        radius: [R] float64, the perturbation that was allowed.
        distance: [R] float64, the perturbation that was used.
        target: [R] int64 class aimed at; -1 if untargeted.
        restart: [R] int64.
        seed: [R] int64.
        gradient_steps: [R] int64, image passes backward that this attempt took.
        queries: [R] int64, image passes forward that it took.
        label_rank: [R] int64, place of the true class among the points of the defence's search, see
            `label_ranks`: 1 the most confident, 0 missing, -1 not measured.
        loss: [R] float64 >= 0, loss that the base classifier was trained with, at this point; -1
            not measured.
        base: answers of the classifier without the defence.
        defended: answers of the classifier with it.
        metadata: names and settings as text.

    Raises:
        TypeError, ValueError: columns of different lengths or wrong types, an example with two
            classes, the same attempt twice, or a point outside its radius.
    """

    example: Tensor
    label: Tensor
    attack: tuple[str, ...]
    norm: tuple[str, ...]
    radius: Tensor
    distance: Tensor
    target: Tensor
    restart: Tensor
    seed: Tensor
    gradient_steps: Tensor
    queries: Tensor
    label_rank: Tensor
    loss: Tensor
    base: Answers
    defended: Answers
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in NUMBER_COLUMNS.items():
            object.__setattr__(self, name, as_column(name, getattr(self, name), dtype))
        for name in TEXT_COLUMNS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for text in (*self.metadata, *self.metadata.values()):
            if not isinstance(text, str):
                raise TypeError(f"metadata has {text!r}, expected names and values of type str")
        object.__setattr__(self, "metadata", dict(self.metadata))
        names = (*NUMBER_COLUMNS, *TEXT_COLUMNS, "base", "defended")
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns have the lengths {lengths}, expected one length R")
        self._check_rows()

    def _check_rows(self) -> None:
        allowed = self.radius * (1.0 + RELATIVE_SLACK) + ABSOLUTE_SLACK  # [R]
        refuse_rows(self.radius < 0.0, "radius", self.radius, "a number >= 0")
        refuse_rows(self.distance > allowed, "distance", self.distance, "no more than the radius")
        for name in ("label", "target", "label_rank", "loss"):
            refuse_rows(getattr(self, name) < -1, name, getattr(self, name), "-1 or more")
        for name in ("restart", "gradient_steps", "queries"):
            refuse_rows(getattr(self, name) < 0, name, getattr(self, name), "0 or more")
        for name, answers in (("base", self.base), ("defended", self.defended)):
            column = f"{name}.wrong_confidence"
            values = answers.wrong_confidence  # [R]
            larger = values > answers.confidence  # [R]
            refuse_rows(larger, column, values, "no more than the confidence")
            smaller = answers.wrong(self.label) & (values < answers.confidence)  # [R]
            refuse_rows(smaller, column, values, "the confidence, where the prediction is wrong")
        classes: dict[int, int] = {}
        for example, label in zip(self.example.tolist(), self.label.tolist(), strict=True):
            if classes.setdefault(example, label) != label:
                raise ValueError(
                    f"label is {label} and {classes[example]} for example {example}, expected one"
                )
        seen: set[tuple[object, ...]] = set()
        columns = (getattr(self, name) for name in KEY)
        lists = (c.tolist() if isinstance(c, Tensor) else c for c in columns)
        for attempt in zip(*lists, strict=True):
            if attempt in seen:
                named = ", ".join(f"{n} {v!r}" for n, v in zip(KEY, attempt, strict=True))
                raise ValueError(f"the attempt ({named}) has two rows, expected one")
            seen.add(attempt)

    def __len__(self) -> int:
        return len(self.example)

    @classmethod
    def of_attempt(
        cls,
        *,
        example: Tensor,  # [R] int64
        label: Tensor,  # [R] int64
        base: Answers,
        defended: Answers,
        attack: str = CLEAN,
        norm: str = "linf",
        radius: float = 0.0,
        distance: Tensor | None = None,  # [R]
        target: int = UNTARGETED,
        restart: int | Tensor = 0,  # or [R] int64
        seed: int = 0,
        gradient_steps: int = 0,
        queries: int = 1,
        label_rank: Tensor | None = None,  # [R] int64
        loss: Tensor | None = None,  # [R]
        metadata: Mapping[str, str] | None = None,
    ) -> AttemptTable:
        """R examples under one attempt of one attack, or clean where no attack is named.

        The columns are those of the class, a single value standing for R equal ones; `distance` is
        needed with a radius > 0, and `label_rank` and `loss` are "not measured" if not given.

        Raises:
            TypeError, ValueError: see the class; or an attack without distances.
        """
        if distance is None:
            if radius > 0.0:
                raise ValueError("distance is None, expected the distances [R] used by the attack")
            distance = torch.zeros(len(example), dtype=torch.float64)  # [R]

        def same(value: int | Tensor) -> Tensor:  # [R]
            return value if isinstance(value, Tensor) else torch.full((len(example),), value)

        return cls(
            example=example,
            label=label,
            attack=(attack,) * len(example),
            norm=(norm,) * len(example),
            radius=torch.full((len(example),), float(radius), dtype=torch.float64),
            distance=distance,
            target=same(target),
            restart=same(restart),
            seed=same(seed),
            gradient_steps=same(gradient_steps),
            queries=same(queries),
            label_rank=same(NOT_RANKED) if label_rank is None else label_rank,
            loss=torch.full((len(example),), NO_LOSS) if loss is None else loss,
            base=base,
            defended=defended,
            metadata=metadata or {},
        )

    def answers(self, classifier: Classifier) -> Answers:
        """The answers of "base" or "defended"."""
        if classifier not in ("base", "defended"):
            raise ValueError(f"classifier is {classifier!r}, expected 'base' or 'defended'")
        return self.base if classifier == "base" else self.defended

    def is_clean(self) -> Tensor:  # [R] bool
        """Which rows are the images themselves."""
        return torch.tensor([name == CLEAN for name in self.attack], dtype=torch.bool)

    def take(self, rows: Tensor) -> AttemptTable:
        """The rows where the mask [R] holds, or those of the given indices."""
        kept = torch.arange(len(self))[rows].tolist()
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in NUMBER_COLUMNS}
        for name in TEXT_COLUMNS:
            columns[name] = tuple(getattr(self, name)[row] for row in kept)
        return AttemptTable(
            **columns,
            base=self.base.take(rows),
            defended=self.defended.take(rows),
            metadata=self.metadata,
        )

    def select(
        self,
        *,
        attacks: Collection[str] | None = None,
        norm: str | None = None,
        radius: float | None = None,
        up_to_radius: float | None = None,
    ) -> AttemptTable:
        """The attempts of a threat model; the clean rows always stay.

        Args:
            attacks: names; None for all.
            norm: norm of the radius; None for all.
            radius: exactly this radius.
            up_to_radius: this or a smaller one: a ball contains those of smaller radii.

        Raises:
            ValueError: a name that no row has.
        """
        clean = self.is_clean()  # [R]
        kept = torch.ones(len(self), dtype=torch.bool)  # [R]
        if attacks is not None:
            unknown = set(attacks) - set(self.attack)
            if isinstance(attacks, str) or unknown:
                known = ", ".join(sorted(set(self.attack)))
                raise ValueError(f"attacks is {attacks!r}, expected names among {known}")
            kept &= torch.tensor([name in attacks for name in self.attack], dtype=torch.bool)
        if norm is not None:
            if norm not in self.norm:
                known = ", ".join(sorted(set(self.norm)))
                raise ValueError(f"norm is {norm!r}, expected one of {known}")
            kept &= torch.tensor([name == norm for name in self.norm], dtype=torch.bool)
        if radius is not None:
            kept &= self.radius == radius
        if up_to_radius is not None:
            kept &= self.radius <= up_to_radius
        return self.take(kept | clean)


def concatenate(tables: Sequence[AttemptTable]) -> AttemptTable:
    """One table of the rows of several, in their order.

    Raises:
        ValueError: no table, a metadata name with two values, or the same attempt twice.
    """
    if not tables:
        raise ValueError("tables is empty, expected one table or more")
    metadata: dict[str, str] = {}
    for table in tables:
        for name, text in table.metadata.items():
            if metadata.setdefault(name, text) != text:
                raise ValueError(f"metadata {name!r} is {metadata[name]!r} and {text!r}")

    def joined(parts: Sequence[Answers]) -> Answers:
        columns = {n: torch.cat([getattr(part, n) for part in parts]) for n in ANSWER_COLUMNS}
        return Answers(**columns)

    columns: dict[str, Any] = {
        name: torch.cat([getattr(table, name) for table in tables]) for name in NUMBER_COLUMNS
    }
    for name in TEXT_COLUMNS:
        columns[name] = tuple(chain.from_iterable(getattr(table, name) for table in tables))
    return AttemptTable(
        **columns,
        base=joined([table.base for table in tables]),
        defended=joined([table.defended for table in tables]),
        metadata=metadata,
    )
