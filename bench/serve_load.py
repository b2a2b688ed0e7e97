"""A service under twice the load that it can take: answers, refusals, latency, memory.

python bench/serve_load.py --output bench/results/serve-load-cpu.json
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy
from ray_commands import descendants, machine

import hcnn_fast as hf
from hcnn_fast.scale.engine import Cluster, connected
from hcnn_fast.scale.serving import Limits, application, import_serve

TOLERANCE = 1e-4  # of the confidence: batches of other images may round otherwise
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Seen:
    """What the client saw."""

    codes: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of answers of 200
    wrong: int = 0
    lost: int = 0  # requests without an answer
    unexpected: list[str] = field(default_factory=list)  # answers that are neither 200 nor 503


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    config = hf.SearchConfig.mcn(0.05, steps=given.steps, labels=given.labels)
    model = hf.models.load("fashion-adversarial")
    sample = hf.data.load("fashion-mnist-sample").first(64)
    expected = hf.Defense(model, config).predict(sample.scaled())
    bodies = []
    for image in sample.images.numpy():
        stream = io.BytesIO()
        numpy.save(stream, image)
        bodies.append(stream.getvalue())
    answers = list(zip(expected.label.tolist(), expected.confidence.tolist(), strict=True))
    limits = Limits()
    serve = import_serve()
    with connected(Cluster(spare_cpus=1)):
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})
        serve.run(application(model, config, shape=(1, 28, 28), limits=limits), name="load")
        client = _Client(f"http://127.0.0.1:{given.port}/", bodies, answers)
        calm = asyncio.run(client.at_once(2 * limits.batch, max(2.0, given.seconds / 6)))
        capacity = len(calm.seconds) / max(2.0, given.seconds / 6)
        memory = [_memory()]
        stormy = asyncio.run(client.at_rate(2.0 * capacity, given.seconds, memory))
        after = asyncio.run(client.at_once(1, 1.0))
        serve.shutdown()
    report: dict[str, Any] = {
        **machine(),
        "capacity_per_second": capacity,
        "asked_per_second": 2.0 * capacity,
        "seconds": given.seconds,
        "codes": {str(code): count for code, count in sorted(stormy.codes.items())},
        "wrong_answers": calm.wrong + stormy.wrong + after.wrong,
        "lost": stormy.lost,
        "unexpected": calm.unexpected + stormy.unexpected + after.unexpected,
        "latency_seconds": _percentiles(stormy.seconds),
        "memory_bytes": {"before": memory[0], "most": max(memory), "end": memory[-1]},
        "answers_after": {str(code): count for code, count in after.codes.items()},
    }
    text = json.dumps(report, indent=2)
    print(text)
    if given.output is not None:
        given.output.write_text(f"{text}\n")


def _percentiles(seconds: list[float]) -> dict[str, float]:
    shares = (50, 90, 99, 100)
    return {f"p{s}": float(numpy.percentile(seconds, s)) for s in shares} if seconds else {}


def _memory() -> int:
    """Resident bytes of the replicas and of the door."""
    pids = descendants(os.getpid(), "ServeReplica")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in pids)


class _Client:
    """Sends images and compares the answers."""

    def __init__(self, url: str, bodies: list[bytes], answers: list[tuple[int, float]]) -> None:
        self._url, self._bodies, self._answers = url, bodies, answers

    async def _one(self, session: aiohttp.ClientSession, number: int, seen: Seen) -> None:
        which = number % len(self._bodies)
        began = time.perf_counter()
        try:
            async with session.post(self._url, data=self._bodies[which]) as answer:
                seen.codes[answer.status] += 1
                if answer.status != 200:
                    if answer.status != 503:
                        seen.unexpected.append(await answer.text())
                    return
                found = await answer.json()
        except aiohttp.ClientError:
            seen.lost += 1
            return
        seen.seconds.append(time.perf_counter() - began)
        label, confidence = self._answers[which]
        right = found["label"] == label and abs(found["confidence"] - confidence) <= TOLERANCE
        seen.wrong += not right

    async def at_once(self, count: int, seconds: float) -> Seen:
        """So many clients, each of which waits for its answer before it asks again."""
        seen, end = Seen(), time.perf_counter() + seconds
        async with aiohttp.ClientSession() as session:

            async def client(number: int) -> None:
                while time.perf_counter() < end:
                    await self._one(session, number, seen)
                    number += count

            await asyncio.gather(*(client(i) for i in range(count)))
        return seen

    async def at_rate(self, rate: float, seconds: float, memory: list[int]) -> Seen:
        """So many requests a second, whatever becomes of them."""
        seen, began = Seen(), time.perf_counter()
        open_requests: set[asyncio.Task[None]] = set()
        noted = began
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                task = asyncio.create_task(self._one(session, number, seen))
                open_requests.add(task)
                task.add_done_callback(open_requests.discard)
                if time.perf_counter() - noted > 1.0:
                    noted = time.perf_counter()
                    memory.append(_memory())
            await asyncio.gather(*open_requests)
        memory.append(_memory())
        return seen


if __name__ == "__main__":
    main()
