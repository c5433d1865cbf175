"""What travels between an edge and its Segmenters, and what happens when one is full, dead or asked in vain."""

import asyncio
import contextlib
import contextvars
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import GENERATE
from engines import FullStore
from fake_cluster import DeadError, FakeHandle, FullError
from fake_model import FakeModel, Gate
from pictures import base64_of, encoded
from PIL import Image
from pydantic import SecretStr
from serving import KEY
from waiting import WAIT_S

from osamd.cluster import remote_answers, segmenter
from osamd.cluster.gathering import Gathered, gathered
from osamd.cluster.remote_answers import RemoteAnswers
from osamd.cluster.segmenter import SegmenterService
from osamd.cluster.shared_question import SharedQuestion
from osamd.cluster.whole_status import is_missing
from osamd.engine import Engine
from osamd.engine.image_ids import model_digits
from osamd.engine.lanes import MOST_HUNG
from osamd.errors import InferenceError
from osamd.library.catalog import Model, load_catalog
from osamd.library.library import Library
from osamd.server.app import create_app
from osamd.settings import Settings

POINT = {"points": [[70, 50]], "point_labels": [1]}
EVERYTHING = {"everything": {"points_per_side": 2}}
LINES = {"Accept": "application/x-ndjson"}


@dataclass
class Cluster:
    """An edge in this process, its handle, and a client of the edge."""

    handle: FakeHandle
    client: httpx2.AsyncClient
    app: Any

    async def click(self, photo: bytes, **fields: Any) -> httpx2.Response:
        """The answer to a click on a photo."""
        body = {"image": base64_of(photo), "prompt": POINT, "model": "sam2:tiny", **fields}
        return await self.client.post(GENERATE, json=body)


def noise(seed: int = 1, *, side: int = 200) -> bytes:
    """A photo that is asked for by its handle first."""
    found = encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)))
    assert len(found) > remote_answers.KNOWN_FIRST_BYTES
    return found


def run(
    main: Callable[[Cluster], Awaitable[None]], *, count: int = 1, model: FakeModel | None = None, **more: Any
) -> None:
    """Run a test's coroutine with a cluster."""
    settings = Settings(api_key=SecretStr(KEY), pull="never", preload=(), threads=1, **more)
    fake = model or FakeModel()

    def service() -> SegmenterService:
        library = Library(settings, catalog=load_catalog(), store=FullStore(Path("nowhere")))
        return SegmenterService(settings, engine=Engine(settings, library=library, load=lambda _: fake))

    async def whole() -> None:
        async with running(settings, {f"part-{number}": service() for number in range(count)}) as cluster:
            await asyncio.wait_for(main(cluster), WAIT_S)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def running(settings: Settings, services: dict[str, SegmenterService]) -> AsyncIterator[Cluster]:
    """The cluster until the block ends."""
    handle = FakeHandle(services)
    app = create_app(settings, answers=RemoteAnswers(settings, handle, label="edge-1"))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    try:
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://osamd.example", headers={"X-API-Key": KEY}
        ) as client:
            yield Cluster(handle, client, app)
    finally:
        await app.state.services.close()
        for service in services.values():
            await service.close()


def test_a_segmenter_whose_computations_hang_is_unhealthy() -> None:
    """So that Ray replaces it; fewer are not enough, since their threads are replaced."""
    gate = Gate()

    async def main(cluster: Cluster) -> None:
        service = cluster.handle.segmenters["part-0"]
        for number in range(MOST_HUNG):
            await service.check_health()
            assert 500 == (await cluster.click(noise(number))).status_code
        with pytest.raises(RuntimeError, match="too many computations hang"):
            await service.check_health()
        gate.open()

    run(main, model=FakeModel(on_encode=gate), hang_s=0.1)


def test_a_known_photo_does_not_travel_twice() -> None:
    """A large one is asked for by its handle first; clicks, embedding and everything mode alike."""
    photo = noise()

    async def main(cluster: Cluster) -> None:
        assert 200 == (await cluster.click(photo)).status_code
        asked, sent = cluster.handle.bytes_sent("segment")
        assert asked < 4_000 < len(photo) < sent < len(photo) + 4_000

        reply = await cluster.click(photo)
        assert (200, "hit") == (reply.status_code, reply.headers["X-Osamd-Cache"])
        (again,) = cluster.handle.bytes_sent("segment")[2:]
        assert again < 4_000

        embedded = await cluster.client.post("/api/embed", json={"image": base64_of(photo), "model": "sam2:tiny"})
        assert reply.json()["image_id"] == embedded.json()["image_id"]
        body = {"image": base64_of(photo), "prompt": EVERYTHING, "model": "sam2:tiny"}
        assert 200 == (await cluster.client.post(GENERATE, json=body, headers=LINES)).status_code
        assert max(cluster.handle.bytes_sent("embed", "stream")) < 4_000

    run(main)


def test_a_small_photo_makes_one_trip() -> None:
    """Asking twice would cost more."""
    photo = encoded(Image.new("RGB", (100, 80), (9, 9, 9)))

    async def main(cluster: Cluster) -> None:
        for _ in range(2):
            assert 200 == (await cluster.click(photo)).status_code
        assert 2 == len(cluster.handle.sent)

    run(main)


def test_an_image_and_clicks_on_it_reach_one_segmenter() -> None:
    """Whether the photo, its handle or its handle without a model is sent; images are spread."""

    async def main(cluster: Cluster) -> None:
        used = set()
        for seed in range(6):
            cluster.handle.asked.clear()
            handle = (await cluster.click(noise(seed))).json()["image_id"]
            for model in (None, "sam2:tiny"):
                body = {"image_id": handle, "prompt": POINT, "model": model}
                assert 200 == (await cluster.client.post(GENERATE, json=body)).status_code
            assert 1 == len(set(cluster.handle.asked))
            used.update(cluster.handle.asked)
        assert 3 == len(used)

    run(main, count=3)


@pytest.mark.parametrize(
    ("failure", "retry_after", "word"), [(FullError(), "3", "busy"), (DeadError(), "1", "stopped")]
)
def test_a_full_queue_and_a_dead_segmenter_are_503(failure: Exception, retry_after: str, word: str) -> None:
    """With the time after which to try again, before the first line of a stream too; the tokens are given back."""
    photo = encoded(Image.new("RGB", (100, 80), (9, 9, 9)))
    stream = {"image": base64_of(photo), "prompt": EVERYTHING, "model": "sam2:tiny"}

    async def main(cluster: Cluster) -> None:
        calls: list[Callable[[], Awaitable[httpx2.Response]]] = [
            lambda: cluster.click(photo),
            lambda: cluster.client.post("/api/embed", json={"image": base64_of(photo)}),
            lambda: cluster.client.post(GENERATE, json=stream, headers=LINES),
            lambda: cluster.client.delete("/api/images/img_" + "0" * 28 + model_digits("sam2:tiny")),
        ]
        for call in calls:
            cluster.handle.fails.append(failure)
            reply = await call()
            assert (503, "overloaded") == (reply.status_code, reply.json()["code"]), reply.text
            assert retry_after == reply.headers["Retry-After"]
            assert word in reply.json()["detail"]
        for _ in range(2):
            assert 200 == (await cluster.click(photo)).status_code

    run(main, encodes_per_minute=1)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_reply_that_no_message_holds_is_refused(*, is_streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Segmenter, with what to do instead; not a failure of the transport."""
    monkeypatch.setattr(segmenter, "CONTENT_BYTES", 100)
    photo = encoded(Image.new("RGB", (100, 80)))

    async def main(cluster: Cluster) -> None:
        body = {"image": base64_of(photo), "model": "sam2:tiny", "prompt": EVERYTHING if is_streamed else POINT}
        reply = await cluster.client.post(GENERATE, json=body, headers=LINES if is_streamed else {})
        told = json.loads(reply.text.splitlines()[-1])
        assert "invalid_prompt" == told["code"]
        assert "fewer masks" in told["detail"]

    run(main)


def test_a_photo_that_no_message_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the edge, before it travels."""
    monkeypatch.setattr(remote_answers, "CONTENT_BYTES", 100)

    async def main(cluster: Cluster) -> None:
        reply = await cluster.click(encoded(Image.new("RGB", (100, 80))))
        assert (413, "body_too_large", "image") == (reply.status_code, reply.json()["code"], reply.json()["field"])
        assert not cluster.handle.sent

    run(main)


def test_a_bug_of_the_transport_is_not_called_overload() -> None:
    """It is answered like any bug, without its words."""

    async def main(cluster: Cluster) -> None:
        cluster.handle.fails.append(KeyError("hush"))
        reply = await cluster.click(encoded(Image.new("RGB", (100, 80))))
        assert (500, "internal_error") == (reply.status_code, reply.json()["code"])
        assert "hush" not in reply.text

    run(main)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_cancels_the_call(*, is_streamed: bool) -> None:
    """The handle's call is cancelled explicitly, and the Segmenter decodes nothing more."""
    gate = Gate()
    model = FakeModel(on_decode=gate)
    photo = encoded(Image.new("RGB", (100, 80)))

    async def main(cluster: Cluster) -> None:
        body: dict[str, Any] = {"image": base64_of(photo), "model": "sam2:tiny"}
        body |= {"prompt": EVERYTHING} if is_streamed else {"prompts": [POINT] * 60}
        asked = asyncio.create_task(cluster.client.post(GENERATE, json=body, headers=LINES if is_streamed else {}))
        assert await asyncio.to_thread(gate.reached.wait, WAIT_S)
        asked.cancel()
        await asyncio.wait([asked])
        assert 1 == cluster.handle.cancelled
        gate.open()
        # Its place is free again.
        assert 200 == (await cluster.click(photo)).status_code

    run(main, model=model)
    # Once all jobs have ended: the one it had begun may have been slower than the click.
    assert 2 == len(model.decoded)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_deadline_cancels_the_call(*, is_streamed: bool) -> None:
    """As in one process: 504, or the last line of a stream, and the Segmenter gives up."""
    gate = Gate()
    photo = encoded(Image.new("RGB", (100, 80)))

    async def main(cluster: Cluster) -> None:
        body = {"image": base64_of(photo), "model": "sam2:tiny", "prompt": EVERYTHING if is_streamed else POINT}
        reply = await cluster.client.post(GENERATE, json=body, headers=LINES if is_streamed else {})
        gate.open()
        told = json.loads(reply.text.splitlines()[-1])
        assert (200 if is_streamed else 504, "deadline_exceeded") == (reply.status_code, told["code"])
        assert 1 == cluster.handle.cancelled

    run(main, model=FakeModel(on_decode=gate), deadline_s=1)


def test_nothing_waits_longer_than_the_deadline_for_a_segmenter_to_start() -> None:
    """Nor what is not limited by itself, such as deletions."""
    requests = {"/api/delete": {"model": "sam2:tiny"}, "/api/images/img_" + "0" * 28 + model_digits("sam2:tiny"): None}

    async def main(cluster: Cluster) -> None:
        cluster.handle.is_starting = True
        for path, body in requests.items():
            reply = await cluster.client.request("DELETE", path, json=body)
            assert (504, "deadline_exceeded") == (reply.status_code, reply.json()["code"])
        assert 2 == cluster.handle.cancelled

    run(main, deadline_s=0.3)


def test_a_segmenter_that_dies_during_a_stream_is_its_last_line() -> None:
    """The lines until then are kept, and the last one says that another attempt may succeed."""
    photo = encoded(Image.new("RGB", (100, 80)))

    async def main(cluster: Cluster) -> None:
        cluster.handle.dies_after = 2
        body = {"image": base64_of(photo), "model": "sam2:tiny", "prompt": EVERYTHING}
        reply = await cluster.client.post(GENERATE, json=body, headers=LINES)
        first, last = map(json.loads, reply.text.splitlines())
        assert (200, "image") == (reply.status_code, first["event"])
        assert ("error", "overloaded") == (last["event"], last["code"])

    run(main)


def test_a_model_that_fails_leaves_its_traceback_in_the_segmenters_log(caplog: pytest.LogCaptureFixture) -> None:
    """It does not travel: the edge's log has the message, under the request's id."""

    def fail_in_the_model(_: object) -> None:
        raise InferenceError("NaN")

    async def main(cluster: Cluster) -> None:
        assert 500 == (await cluster.click(encoded(Image.new("RGB", (100, 80))))).status_code

    run(main, model=FakeModel(on_decode=fail_in_the_model))
    (here, there) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert fail_in_the_model.__name__ in str(here.exc_text)
    assert fail_in_the_model.__name__ not in str(there.exc_text)
    assert here.__dict__["request_id"] == there.__dict__["request_id"] != ""


def test_a_handle_of_no_model_here_is_expired() -> None:
    """No Segmenter is asked, and none is started for it."""

    async def main(cluster: Cluster) -> None:
        for handle in ("img_" + "0" * 32, "nonsense", ""):
            reply = await cluster.client.post(GENERATE, json={"image_id": handle, "prompt": POINT})
            assert (410, "image_id") == (reply.status_code, reply.json()["field"])
        assert not cluster.handle.sent

    run(main)


def test_the_edge_is_ready_when_its_segmenters_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while one is missing; ready while all may be at zero."""
    monkeypatch.setattr(remote_answers, "MISSING_AGE_S", 0.0)

    async def main(cluster: Cluster) -> None:
        cluster.handle.absent = ("sam2:tiny",)
        waiting = await cluster.client.get("/ready")
        assert (503, "loading") == (waiting.status_code, waiting.json()["status"])
        assert 200 == (await cluster.client.get("/health")).status_code
        cluster.handle.absent = ()
        assert 200 == (await cluster.client.get("/ready")).status_code
        cluster.handle.segmenters = {}
        assert 200 == (await cluster.client.get("/ready")).status_code

    run(main)


def test_probes_ask_no_segmenter() -> None:
    """Anyone may probe, and a Segmenter that is asked counts as busy: it would never go to zero."""

    async def main(cluster: Cluster) -> None:
        for path in ("/ready", "/health"):
            assert 200 == (await cluster.client.get(path)).status_code
        assert [] == cluster.handle.sent

    run(main)


def test_metrics_do_not_access_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are scraped every few seconds, and models are on a network volume."""
    read = []

    def is_present(_: FullStore, model: Model) -> bool:
        read.append(model.name)
        return True

    monkeypatch.setattr(FullStore, "is_present", is_present)

    async def main(cluster: Cluster) -> None:
        read.clear()
        assert 200 == (await cluster.client.get("/metrics")).status_code
        assert [] == read

    run(main)


def test_a_hung_segmenter_does_not_hide_the_others() -> None:
    """In metrics and in lists of models."""

    async def main(cluster: Cluster) -> None:
        for seed in range(4):
            await cluster.click(noise(seed))
        cluster.handle.hung = ("part-0",)
        labels = re.findall(r'osamd_model_bytes{segmenter="([^"]+)"', (await cluster.client.get("/metrics")).text)
        assert ["part-1"] == labels
        listed = (await cluster.client.get("/api/ps")).json()["models"]
        assert ["sam2:tiny"] == [model["name"] for model in listed]

    run(main, count=2)


def test_a_model_is_not_deleted_until_all_have_deleted_it() -> None:
    """One that does not answer may have it still: the caller tries again."""

    async def main(cluster: Cluster) -> None:
        cluster.handle.hung = ("part-1",)
        reply = await cluster.client.request("DELETE", "/api/delete", json={"model": "sam2:tiny"})
        assert (503, "overloaded", "5") == (reply.status_code, reply.json()["code"], reply.headers["Retry-After"])
        cluster.handle.hung = ()
        again = await cluster.client.request("DELETE", "/api/delete", json={"model": "sam2:tiny"})
        assert 200 == again.status_code

    run(main, count=2)


def test_an_image_is_deleted_wherever_it_is() -> None:
    """Its Segmenter may have been another one before more were started."""

    async def main(cluster: Cluster) -> None:
        handle = cluster.handle

        def lead_to(label: str) -> None:
            handle._chosen = lambda key: handle.segmenters[label]  # type: ignore[method-assign]  # noqa: ARG005

        lead_to("part-0")
        image_id = (await cluster.click(noise())).json()["image_id"]
        lead_to("part-1")
        handle.hung = ("part-0",)
        silent = await cluster.client.delete(f"/api/images/{image_id}")
        assert (503, "overloaded") == (silent.status_code, silent.json()["code"])
        handle.hung = ()
        assert 204 == (await cluster.client.delete(f"/api/images/{image_id}")).status_code
        assert 410 == (await cluster.client.delete(f"/api/images/{image_id}")).status_code
        lead_to("part-0")
        body = {"image_id": image_id, "prompt": POINT}
        assert 410 == (await cluster.client.post(GENERATE, json=body)).status_code

    run(main, count=2)


def test_late_answers_are_cancelled_and_early_ones_kept() -> None:
    """Of several calls; one that fails counts as silent."""
    cancelled = []

    async def early() -> tuple[str, int]:
        return "early", 1

    async def late() -> tuple[str, int]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("late")
        return "late", 2

    async def dead() -> tuple[str, int]:
        raise DeadError

    async def main() -> None:
        assert Gathered({"early": 1}, 2) == await gathered([late(), early(), dead()], within_s=0.05)
        assert Gathered({}) == await gathered([], within_s=0.05)

    asyncio.run(main())
    assert ["late"] == cancelled


@pytest.mark.parametrize(
    ("status", "running", "expected"),
    [
        ("HEALTHY", 0, False),
        ("UPSCALING", 0, False),
        ("UPDATING", 0, True),
        ("UNHEALTHY", 0, True),
        ("UNHEALTHY", 1, False),
        ("DEPLOY_FAILED", 0, True),
    ],
)
def test_a_model_at_zero_is_not_missing(status: str, running: int, *, expected: bool) -> None:
    """Nor while its first Segmenter starts for a request, which waits for it."""
    assert expected == is_missing(status, running)


def test_a_client_that_leaves_does_not_cancel_what_others_wait_for() -> None:
    """What requests share belongs to none of them: Ray cancels all calls made in the context of one that is left."""
    request = contextvars.ContextVar("request", default="nobody's")

    async def ask() -> str:
        return request.get()

    async def main() -> None:
        request.set("the first client's")
        question = SharedQuestion(ask, age_s=60.0)
        first = asyncio.create_task(question.answer())
        await asyncio.sleep(0)
        first.cancel()
        assert "nobody's" == await question.answer()

    asyncio.run(main())


def test_metrics_tell_of_each_segmenter() -> None:
    """Its own series under its label, once in the text per family; the edge's under another.

    A balancer lets another edge answer each scrape, and its counters are not this one's, reset.
    """

    async def main(cluster: Cluster) -> None:
        for seed in range(4):
            await cluster.click(noise(seed))
        reply = await cluster.client.get("/metrics")
        lines = reply.text.splitlines()
        heads = [line for line in lines if line.startswith("# TYPE")]
        assert len(heads) == len(set(heads))
        loaded = {line for line in lines if line.startswith("osamd_model_bytes{")}
        assert loaded == {
            f'osamd_model_bytes{{segmenter="part-{number}",device="fake",model="sam2:tiny"}} 1.0' for number in range(2)
        }
        assert 'osamd_embeddings{edge="edge-1"} 0.0' in lines
        kept = [line for line in lines if line.startswith('osamd_embeddings{segmenter="')]
        assert 4 == sum(float(line.rsplit(" ", 1)[1]) for line in kept)
        assert [line for line in lines if line.startswith('osamd_requests_total{edge="edge-1",door=')]
        assert all('edge="' in line or 'segmenter="' in line for line in lines if not line.startswith("#"))

    run(main, count=2)


def test_stages_are_those_of_both_sides() -> None:
    """``Server-Timing`` has the Segmenter's stages and the edge's, and the way counts as waiting."""

    async def main(cluster: Cluster) -> None:
        reply = await cluster.click(noise())
        stages = {part.partition(";")[0].strip() for part in reply.headers["Server-Timing"].split(",")}
        assert {"receive", "parse", "queue", "decode_image", "encode", "decode", "mask", "reply", "total"} == stages

    run(main)
