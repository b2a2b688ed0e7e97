"""A defended classifier over HTTP on Ray Serve: batches, a bounded queue, health and metrics."""

from __future__ import annotations

import asyncio
import importlib
import time
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.image_files import ImageFormat
from hcnn_fast.scale.bodies import image_of
from hcnn_fast.scale.packing import Packed


@dataclass(frozen=True)
class Limits:
    """How much a service takes on.

    Attributes:
        batch: most images that are searched together.
        wait: seconds that the first image of a batch waits for others.
        queue: requests that wait for a replica; more are answered by 503.
        body: most bytes of a request; more are answered by 413.
        replicas: processes that search.
        threads: torch threads of each, and CPUs that Ray keeps free for it.
        gpus: GPUs of each, or a share of one; 0: it searches on the CPU.

    Raises:
        ValueError: a field is out of its range.
    """

    batch: int = 16
    wait: float = 0.01
    queue: int = 64
    body: int = 1 << 23
    replicas: int = 1
    threads: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "body", "replicas", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an int >= 1")
        for name in ("wait", "gpus"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a number >= 0")

    @property
    def inside(self) -> int:
        """Requests that are taken on: a batch is searched, the next one gathers, others wait."""
        return 2 * self.batch * self.replicas + self.queue


def import_serve() -> Any:
    """The module ray.serve.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise ImportError('ray[serve] is missing: pip install "hcnn_fast[ray]"') from error


class Searcher:
    """A deployment that searches for whole batches, in a thread, so that it stays responsive."""

    def __init__(self, defense: Packed, limits: Limits) -> None:
        torch.set_num_threads(limits.threads)
        self._device = torch.device("cuda" if limits.gpus else "cpu")
        self._defense: Defense = defense.unpacked().eval().to(self._device)
        batched = import_serve().batch(
            max_batch_size=limits.batch, batch_wait_timeout_s=limits.wait
        )

        @batched  # type: ignore[untyped-decorator]  # ray has no types
        async def answers(images: list[numpy.ndarray[Any, Any]]) -> list[dict[str, Any]]:
            return await asyncio.to_thread(self._answers, images)

        self._batched = answers

    def _answers(self, images: list[numpy.ndarray[Any, Any]]) -> list[dict[str, Any]]:
        x = torch.from_numpy(numpy.stack(images)).to(self._device)  # [n, *image]
        found = self._defense.predict(x)
        figures = zip(
            found.label.tolist(), found.confidence.tolist(), found.accepted.tolist(), strict=True
        )
        return [
            {"label": label, "confidence": confidence, "accepted": accepted}
            for label, confidence, accepted in figures
        ]

    async def answer(self, image: numpy.ndarray[Any, Any]) -> dict[str, Any]:  # [*image]
        """Label (-1 where rejected), confidence and whether it is accepted."""
        found: dict[str, Any] = await self._batched(image)
        return found


class Door:
    """The deployment that speaks HTTP: it refuses what cannot be answered and counts what was.

    POST / takes an image and gives JSON; GET /health and GET /metrics.
    """

    def __init__(self, searcher: Any, form: ImageFormat, limits: Limits, names: Any) -> None:
        metrics = importlib.import_module("prometheus_client")
        self._searcher, self._form, self._limits, self._names = searcher, form, limits, names
        self._inside = 0  # requests that are read, wait, or are searched
        self._metrics, self._registry = metrics, metrics.CollectorRegistry()
        self._answered = metrics.Counter(
            "hcnn_fast_requests", "Requests by answer", ["code"], registry=self._registry
        )
        self._accepted = metrics.Counter(
            "hcnn_fast_images", "Images by verdict", ["accepted"], registry=self._registry
        )
        self._seconds = metrics.Histogram(
            "hcnn_fast_seconds", "Seconds to an answer of 200", registry=self._registry
        )
        self._open = metrics.Gauge(
            "hcnn_fast_requests_open", "Requests without an answer yet", registry=self._registry
        )

    async def __call__(self, request: Any) -> Any:
        """Answer a request of starlette."""
        responses = importlib.import_module("starlette.responses")
        route = (request.method, request.url.path)
        if route == ("GET", "/health"):
            return responses.JSONResponse({"status": "ok"})
        if route == ("GET", "/metrics"):
            return responses.Response(
                self._metrics.generate_latest(self._registry),
                media_type=self._metrics.CONTENT_TYPE_LATEST,
            )
        if route != ("POST", "/"):
            code = 405 if request.url.path in ("/", "/health", "/metrics") else 404
            return responses.JSONResponse({"error": "POST an image to /"}, code)
        began = time.perf_counter()
        with self._open.track_inprogress():
            code, answer = await self._answer(request)
        self._answered.labels(str(code)).inc()
        if code == 200:
            self._seconds.observe(time.perf_counter() - began)
            self._accepted.labels(str(answer["accepted"]).lower()).inc()
        headers = {"Retry-After": "1"} if code == 503 else None
        return responses.JSONResponse(answer, code, headers)

    async def _answer(self, request: Any) -> tuple[int, dict[str, Any]]:
        if self._inside >= self._limits.inside:  # before anything is spent on it
            return 503, {"error": f"{self._limits.queue} requests wait already; try again"}
        self._inside += 1
        try:
            body = await self._body(request)
            if body is None:
                return 413, {"error": f"the body has more than {self._limits.body} bytes"}
            try:
                image = await asyncio.to_thread(image_of, body, self._form)
            except (FailedRun, WrongUsage) as error:
                return 400, {"error": str(error)}
            return await self._searched(image.numpy())
        finally:
            self._inside -= 1

    async def _searched(
        self,
        image: numpy.ndarray[Any, Any],  # [*image]
    ) -> tuple[int, dict[str, Any]]:
        errors = importlib.import_module("ray.exceptions")
        lost = importlib.import_module("ray.serve.exceptions")
        try:
            found = await self._searcher.answer.remote(image)
        except (errors.RayActorError, lost.DeploymentUnavailableError) as error:
            return 503, {"error": f"the replica was lost; try again ({type(error).__name__})"}
        except Exception as error:  # one request's failure is not the service's
            return 500, {"error": str(error).strip().splitlines()[-1]}
        if self._names is not None:
            label = found["label"]
            found["class_name"] = self._names[label] if 0 <= label < len(self._names) else None
        return 200, found

    async def _body(self, request: Any) -> bytes | None:
        """The body, or None as soon as it is too long, whatever its header says."""
        told = request.headers.get("content-length", "0")
        if told.isdigit() and int(told) > self._limits.body:
            return None
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self._limits.body:
                return None
        return bytes(content)


def application(
    model: nn.Module,
    config: SearchConfig,
    *,
    shape: tuple[int, int, int],
    threshold: float | None = None,
    class_names: tuple[str, ...] | None = None,
    limits: Limits | None = None,
    convert: bool = False,
    resize: bool = False,
) -> Any:
    """An application for `ray.serve.run`: an image in by HTTP, label and confidence out as JSON.

    Args:
        model: classifier, on the CPU.
        config: the search.
        shape: (channels, height, width) of an image.
        threshold: smallest confidence that is accepted; None accepts all but infeasible NCN.
        class_names: names of the classes, for the answers.
        limits: how much it takes on.
        convert: make grey of colour, drop transparency.
        resize: fit images of another size.

    Raises:
        ImportError: ray[serve] is not installed; says how to get it.
        TypeError, ValueError: an argument is not usable.
    """
    serve = import_serve()
    taken = limits or Limits()
    defense = Defense(model, config, threshold)  # refuses what cannot be, before it is started
    form = ImageFormat(shape, config.bounds, resize, convert)
    searchers = serve.deployment(
        num_replicas=taken.replicas,
        # The door lets in no more. Requests wait in the replica: they would come late from a router
        # that finds it full and tries again after ever longer pauses.
        max_ongoing_requests=taken.inside,
        ray_actor_options={"num_cpus": taken.threads, "num_gpus": taken.gpus},
    )(Searcher)
    door = serve.deployment(
        # Room for all that may wait, and for many more that are told so; what comes beyond them is
        # refused by Ray itself, in plain text.
        max_ongoing_requests=8 * taken.inside,
        max_queued_requests=8 * taken.inside,
        ray_actor_options={"num_cpus": 0.1},
    )(Door)
    return door.bind(searchers.bind(Packed.of(defense), taken), form, taken, class_names)
