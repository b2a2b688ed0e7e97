"""A training run: epochs, their checkpoints, the average of weights, and which epoch is kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.training.augmentation import augment
from hcnn_fast.training.checkpoint import CheckpointFile
from hcnn_fast.training.methods import objective_of
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.result import EpochReport, TrainingResult
from hcnn_fast.training.streams import generator_of
from hcnn_fast.training.validation import validate

CHECKPOINT = "checkpoint.pt"


def train(
    model: nn.Module,
    data: ImageDataset,
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int, int], None] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> TrainingResult:
    """Train a classifier by the method of a recipe.

    SGD minimises the method's objective; see `objective_of`. Every random choice is a function of
    the seed and the step number, so a resumed run equals an uninterrupted one bit for bit on a CPU.
    Checkpoints are written between steps, as often as `checkpoint.WRITING` of the time allows.
    The epoch that does best under attack on held-out training images is kept; the test set is never
    seen.

    Args:
        model: classifier of [N, C, H, W] images in [0, 1]; trained in place, left with the kept
            weights in eval mode on `device`.
        data: images to train on; `recipe.validation_images` of them are held out.
        recipe: all hyperparameters.
        output: existing folder for the checkpoint; None: no checkpoints.
        resume: go on from the checkpoint in `output`.
        device: where to train.
        on_step: called after each step with the epoch from 1, its steps so far, and all its steps.
        on_epoch: called after each epoch, once its checkpoint is on disk.

    Raises:
        FileNotFoundError: resume without a checkpoint.
        ValueError: fewer images than are held out, or a checkpoint of another run.
        RuntimeError: the loss is no longer finite.
    """
    if len(data) <= recipe.validation_images:
        raise ValueError(
            f"data has {len(data)} images, expected more than the "
            f"{recipe.validation_images} of validation_images"
        )
    if resume and output is None:
        raise ValueError("output is None, expected the folder of the checkpoint to resume")
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        run = _Run(model, data, recipe, device)
        checkpoint = None
        if output is not None:
            checkpoint = CheckpointFile(output / CHECKPOINT, run.identity)
            if resume:
                run.restore(checkpoint.load())
        while not run.finished:
            while run.step_of_epoch < run.steps_per_epoch:
                run.step()
                if checkpoint is not None:
                    checkpoint.save_when_due(run.state)
                if on_step is not None:
                    on_step(run.epochs_done + 1, run.step_of_epoch, run.steps_per_epoch)
            report = run.end_epoch()
            if checkpoint is not None:
                checkpoint.save(run.state())
            if on_epoch is not None:
                on_epoch(report)
    return run.result()


class _Run:
    """The state of a training run between steps."""

    def __init__(
        self, model: nn.Module, data: ImageDataset, recipe: Recipe, device: torch.device
    ) -> None:
        self.model = model.to(device)
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.device = device
        self.objective = objective_of(recipe, device)
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        self.identity: dict[str, Any] = {
            "data": f"{data.name}/{data.split}",
            "images": len(data),
            "model": type(model).__name__,
            "shapes": shapes,
            **recipe.to_dict(),
        }
        order = torch.randperm(len(data), generator=generator_of("held out", recipe.seed))  # [N]
        split = len(data) - recipe.validation_images
        self.images = data.images[order[:split]].to(device)  # [N, C, H, W] uint8
        self.labels = data.labels[order[:split]].to(device)  # [N]
        self.held_images = data.images[order[split:]].to(device)  # [V, C, H, W] uint8
        self.held_labels = data.labels[order[split:]].to(device)  # [V]
        self.steps_per_epoch = -(-split // recipe.batch_size)
        self.optimiser = _optimiser(self.model, recipe)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.epochs_done = 0
        self.step_of_epoch = 0
        self.order: tuple[int, Tensor] | None = None  # of an epoch, by its seed
        self.loss_sum = torch.zeros((), device=device)  # of the epoch so far
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self.seconds = 0.0  # of training, over all resumed parts
        self.epoch_seconds = 0.0  # of that, in this epoch
        self.history: list[EpochReport] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better."""
        patience = self.recipe.patience
        stale = patience is not None and self.epochs_done - self.best_epoch >= patience
        return self.epochs_done >= self.recipe.epochs or stale

    def state(self) -> dict[str, Any]:
        """All that changes during the run, as tensors and plain values."""
        state: dict[str, Any] = {
            "epoch": self.epochs_done,
            "step": self.step_of_epoch,
            "loss_sum": self.loss_sum,
            "right": self.right,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "history": [asdict(report) for report in self.history],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.epochs_done = state["epoch"]
        self.step_of_epoch = state["step"]
        self.loss_sum = state["loss_sum"].to(self.device)
        self.right = state["right"].to(self.device)
        self.seconds = state["seconds"]
        self.epoch_seconds = state["epoch_seconds"]
        self.history = [EpochReport(**report) for report in state["history"]]
        self.best_epoch = state["best_epoch"]
        self.best_weights = dict(state["best_weights"])

    def step(self) -> None:
        """The next step of SGD in this epoch."""
        began = time.perf_counter()
        self.model.train()
        size, seed = self.recipe.batch_size, self._first_seed + self.step_of_epoch
        chosen = self._order()[self.step_of_epoch * size :][:size].to(self.device)  # [B]
        loss, hits = self._descend(self.images[chosen], self.labels[chosen], seed)
        self.loss_sum += loss * len(chosen)
        self.right += hits
        self.step_of_epoch += 1
        self.epoch_seconds += time.perf_counter() - began

    @property
    def _first_seed(self) -> int:
        """Seed of the epoch's order and of its first step."""
        return self.recipe.seed * 2**32 + self.epochs_done * self.steps_per_epoch

    def _order(self) -> Tensor:  # [N]
        """The order of the images in this epoch."""
        seed = self._first_seed
        if self.order is None or self.order[0] != seed:
            drawn = torch.randperm(len(self.images), generator=generator_of("order", seed))
            self.order = (seed, drawn)
        return self.order[1]

    def end_epoch(self) -> EpochReport:
        """What the steps of this epoch came to; keeps the weights if they are the best so far."""
        recipe, began = self.recipe, time.perf_counter()
        self.epochs_done += 1
        mean_loss = float(self.loss_sum) / len(self.images)
        if not mean_loss < float("inf"):
            raise RuntimeError(
                f"the loss of epoch {self.epochs_done} is {mean_loss}; "
                "train with a smaller learning_rate"
            )
        clean, robust = self._validate()
        earlier = max((r.validation_robust for r in self.history), default=-1.0)
        better = not recipe.validation_images or robust > earlier
        if better:
            self.best_epoch = self.epochs_done
            kept = self.average if recipe.average_decay else self.model
            self.best_weights = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in kept.state_dict().items()
            }
        report = EpochReport(
            epoch=self.epochs_done,
            loss=mean_loss,
            accuracy=int(self.right) / len(self.images),
            validation_clean=clean,
            validation_robust=robust,
            seconds=self.epoch_seconds + time.perf_counter() - began,
            best=better,
        )
        self.history.append(report)
        self.seconds += self.epoch_seconds
        self.step_of_epoch, self.epoch_seconds = 0, 0.0
        self.loss_sum, self.right = torch.zeros_like(self.loss_sum), torch.zeros_like(self.right)
        return report

    def result(self) -> TrainingResult:
        """Put the kept weights into the model and describe the run."""
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        return TrainingResult(
            weights=self.best_weights,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            train_images=len(self.images),
            seconds=self.seconds,
        )

    def _descend(
        self,
        images: Tensor,  # [B, C, H, W] uint8
        labels: Tensor,  # [B]
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """One step of SGD: its loss and how many points were classified right."""
        recipe = self.recipe
        epoch = self.epochs_done + self.step_of_epoch / self.steps_per_epoch
        x = images.to(torch.float32) / 255.0  # [B, C, H, W]
        x = augment(
            x, flip=recipe.flip, shift=recipe.shift, generator=generator_of("augmentation", seed)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate_at(epoch / recipe.epochs)
        self.optimiser.zero_grad(set_to_none=True)
        step_loss = self.objective(self.model, x, labels, epoch=epoch, seed=seed)
        step_loss.loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimiser.step()
        self._update_average(self.epochs_done * self.steps_per_epoch + self.step_of_epoch)
        return step_loss.loss.detach(), step_loss.right

    def _update_average(self, step: int) -> None:
        """Move the average towards the weights; faster at first, when there is little history."""
        decay = min(self.recipe.average_decay, (1 + step) / (10 + step))
        weights = self.model.state_dict()
        with torch.no_grad():
            for name, kept in self.average.state_dict().items():
                if kept.is_floating_point():
                    kept.lerp_(weights[name], 1.0 - decay)
                else:  # counters of batch normalisation
                    kept.copy_(weights[name])

    def _validate(self) -> tuple[float, float]:
        """Accuracy on the held-out images, as they are and under attack."""
        kept = self.average if self.recipe.average_decay else self.model
        return validate(kept, self.held_images, self.held_labels, self.recipe)


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; decay on kernels and matrices only, as Madry et al. do."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0.0,
    )
