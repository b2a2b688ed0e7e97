"""The service under load, with a client that speaks HTTP, against the library's own answers."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import numpy
import pytest
import torch
from PIL import Image
from ray_nodes import ON_RAY
from scale_classifiers import Linear

import hcnn_fast as hf
from hcnn_fast.jobs.array_files import read_header
from hcnn_fast.jobs.image_files import ImageFormat
from hcnn_fast.scale import bodies
from hcnn_fast.scale.serving import Limits, application

pytestmark = [*ON_RAY, pytest.mark.filterwarnings("ignore::UserWarning")]
CONFIG = hf.SearchConfig.mcn(0.05, steps=2)
THRESHOLD = 0.8
LIMITS = Limits(batch=4, queue=4, body=20_000)


@pytest.fixture(scope="module")
def url(two_nodes: str) -> Iterator[str]:
    """Where the service listens."""
    from ray import serve
    from ray._common.network_utils import find_free_port

    port = find_free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    served = application(
        Linear(Path(), "wait"),
        CONFIG,
        shape=(1, 6, 5),
        threshold=THRESHOLD,
        class_names=("a", "b", "c"),
        limits=LIMITS,
    )
    serve.run(served, name="defended")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def pixels(count: int) -> numpy.ndarray:
    return numpy.random.default_rng(1).integers(0, 256, (count, 6, 5), dtype=numpy.uint8)


def body_of(values: numpy.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "png":
        Image.fromarray(values).save(stream, "PNG")
    else:
        numpy.save(stream, values)
    return stream.getvalue()


async def post(url: str, sent: list[bytes], at_once: int) -> list[tuple[int, Any]]:
    """Post all bodies, so many of them at a time; status and JSON of each."""
    gate = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession() as session:

        async def one(body: bytes) -> tuple[int, Any]:
            async with gate, session.post(url, data=body) as answer:
                known = answer.content_type == "application/json"
                return answer.status, await (answer.json() if known else answer.text())

        return await asyncio.gather(*(one(body) for body in sent))


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def test_overload_is_refused_and_every_answer_is_the_librarys(url: str) -> None:
    values = pixels(200)
    sent = [body_of(v, "png" if i % 2 else "npy") for i, v in enumerate(values)]
    x = torch.from_numpy(values)[:, None].float() / 255
    expected = hf.Defense(Linear().eval(), CONFIG, THRESHOLD).predict(x)
    few = asyncio.run(post(url, sent[:8], 4))
    many = asyncio.run(post(url, sent, 30))
    again = asyncio.run(post(url, sent[:8], 4))
    assert {code for code, _ in few + again} == {200}
    counts = Counter(code for code, _ in many)
    assert set(counts) == {200, 503}
    assert min(counts.values()) >= 8
    both_verdicts = set()
    for found in (few, many, again):
        for i, (code, answer) in enumerate(found):
            if code == 503:
                # Ray's own door answers in plain text, before the request reaches the program.
                assert isinstance(answer, str) or "try again" in answer["error"]
                continue
            label = int(expected.label[i])
            assert answer["label"] == label
            assert answer["class_name"] == (None if label < 0 else "abc"[label])
            assert answer["accepted"] == bool(expected.accepted[i])
            assert answer["confidence"] == pytest.approx(float(expected.confidence[i]), abs=1e-5)
            both_verdicts.add(answer["accepted"])
    assert both_verdicts == {True, False}
    code, text = asyncio.run(get(f"{url}/metrics"))
    assert code == 200
    refused = sum(code == 503 and isinstance(answer, dict) for code, answer in many)
    assert f'hcnn_fast_requests_total{{code="503"}} {refused}.0' in text
    assert refused > 0.5 * counts[503]
    assert f'hcnn_fast_requests_total{{code="200"}} {counts[200] + 16}.0' in text
    assert "hcnn_fast_requests_open 0.0" in text
    flood = asyncio.run(post(url, sent * 2, 200))  # more than may even stand at the door
    assert {code for code, _ in flood} == {200, 503}
    assert asyncio.run(post(url, sent[:1], 1))[0][0] == 200


REFUSED = {
    "empty": (b"", 400, "neither PNG, JPEG nor .npy"),
    "text": (b"hello", 400, "neither PNG, JPEG nor .npy"),
    "cut png": (body_of(pixels(1)[0], "png")[:60], 400, "not a readable image"),
    "cut npy": (body_of(pixels(1)[0], "npy")[:-1], 400, "too many or too few"),
    "npy header alone": (body_of(pixels(1)[0], "npy")[:20], 400, "not a readable .npy file"),
    "other size": (body_of(numpy.zeros((5, 6), dtype=numpy.uint8), "png"), 400, "6x5 pixels"),
    "other shape": (body_of(numpy.zeros((7, 5), dtype=numpy.uint8), "npy"), 400, "has shape"),
    "not a number": (body_of(numpy.full((6, 5), numpy.nan), "npy"), 400, "holds the value nan"),
    "integers": (body_of(numpy.zeros((6, 5), dtype=numpy.int64), "npy"), 400, "holds int64"),
    "oversize": (bytes(LIMITS.body + 1), 413, "more than 20000 bytes"),
}


def test_one_header_is_parsed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0

    def watched(stream: io.BytesIO) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)  # others would come in meanwhile
        header = read_header(stream)
        inside -= 1
        return header

    monkeypatch.setattr(bodies, "read_header", watched)
    body, form = body_of(pixels(1)[0], "npy"), ImageFormat((1, 6, 5), (0.0, 1.0), False, False)
    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(lambda _: bodies.image_of(body, form), range(8)))
    assert most == 1
    assert all(torch.equal(image, images[0]) for image in images)


def test_bad_bodies_are_refused_in_a_sentence_and_nothing_dies(url: str) -> None:
    found = asyncio.run(post(url, [body for body, _, _ in REFUSED.values()], 1))
    for (code, answer), (_, expected, said) in zip(found, REFUSED.values(), strict=True):
        assert (code, said in answer["error"]) == (expected, True), answer
    assert asyncio.run(post(url, [body_of(pixels(1)[0], "png")], 1))[0][0] == 200


def test_health_and_unknown_routes(url: str) -> None:
    assert asyncio.run(get(f"{url}/health")) == (200, '{"status":"ok"}')
    assert asyncio.run(get(f"{url}/elsewhere"))[0] == 404
    assert asyncio.run(get(url))[0] == 405
