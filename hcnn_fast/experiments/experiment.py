"""What an experiment is: which points, which attacks on them, and what the rows then say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hcnn_fast.evaluation import AttemptTable
from hcnn_fast.experiments.family import Family
from hcnn_fast.experiments.settings import Budget, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROBUST, NATURAL = "adversarially trained", "natural"  # as `evaluation.published` calls them


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes:
        name: what it was called.
        role: what it stands for in the paper's tables, `ROBUST` or `NATURAL`, or in a family.
        model: in eval mode, on its device.
        card: what is known about it; empty if nothing is.
    """

    name: str
    role: str
    model: nn.Module
    card: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The role as a name of files."""
        return self.role.replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Work:
    """The points of a chunk, to be attacked on one model.

    Attributes:
        subject: the model.
        others: the other models at hand, to transfer from.
        example: [n] int64, ids of the points: their places in the data set.
        x: [n, *image] float32 in [0, 1].
        y: [n] int64 classes.
        classes: number of classes.
        settings: of the experiment.
        held_out: answers on clean points that no attack sees; None while those are made, and where
            the experiment needs none.
    """

    subject: Subject
    others: tuple[Subject, ...]
    example: Tensor
    x: Tensor
    y: Tensor
    classes: int
    settings: Settings
    held_out: AttemptTable | None = None

    def take(self, rows: Tensor) -> Work:  # [n] bool
        """Some of the points."""
        return replace(self, example=self.example[rows.cpu()], x=self.x[rows], y=self.y[rows])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The stored rows of all chunks that are done.

    Attributes:
        tables: attempts, by role.
        held_out: answers on clean points that no attack has seen, by role; empty if not asked for.
        names: names of the models, by role.
        classes: number of classes.
        settings: of the experiment; `points` is what was asked for, not what is done.
    """

    tables: Mapping[str, AttemptTable]
    held_out: Mapping[str, AttemptTable]
    names: Mapping[str, str]
    classes: int
    settings: Settings

    @property
    def differs(self) -> str:
        """How this setting differs from that of Wu et al. 2018."""
        names = " and ".join(self.names.values())
        if self.settings.data == "cifar10":
            return f"model {names}, not a wide ResNet"
        return f"data {self.settings.data}, model {names}, not CIFAR-10 and a wide ResNet"


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table as text; a line break in a cell starts a second line.

    Attributes:
        title: what it shows.
        columns: their headings.
        rows: cells, as many as columns.
        notes: what has to be known to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A picture that is drawn when it is needed.

    Attributes:
        name: stem of its file.
        caption: what it shows.
        draw: makes it, with matplotlib.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an experiment found.

    Attributes:
        tables: to be printed.
        reading: what the numbers say, sentence by sentence, in plain language.
        numbers: everything measured, as plain values.
        drawings: pictures.
    """

    tables: tuple[TextTable, ...]
    reading: tuple[str, ...]
    numbers: Mapping[str, Any]
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What a report says of its experiment.

    Attributes:
        name: of the command, and of the folder of its results.
        title: in a few words.
        question: what it answers, in a sentence.
    """

    name: str
    title: str
    question: str


@dataclass(frozen=True, kw_only=True)
class Experiment(Heading):
    """One experiment; a new one is a value of this kind in `experiments.EXPERIMENTS`.

    Attributes:
        paper_radii: the radii of the source, on CIFAR-10.
        confidences: the p that count.
        budget: the source's, or where it has none a thorough one.
        small_budget: for the images that ship with the package.
        right_only: only points that the model gets right are taken.
        held_out: makes the rows of clean points that are not attacked; None if none are needed.
        both_models: the natural model is measured as well where there is one.
        attempts: makes the rows of a chunk: one clean row for each point, and its attempts. They
            must not depend on what else is in the chunk, beyond the model's own rounding.
        findings: reads the rows of all chunks; a pure function.
        family: models that the experiment trains itself and measures all; None: it is given models.
    """

    paper_radii: tuple[float, ...]
    confidences: tuple[float, ...]
    budget: Budget
    small_budget: Budget
    right_only: bool
    held_out: Callable[[Work], AttemptTable] | None
    both_models: bool
    attempts: Callable[[Work], AttemptTable]
    findings: Callable[[Evidence], Findings]
    family: Family | None = None
