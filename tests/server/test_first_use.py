import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE, ask, refusal
from blob_server import Answer
from pictures import base64_of
from serving import KEY, run_server
from shelf import Library, WebModel, run_library
from waiting import WAIT_S

from osamd.client import Client
from osamd.errors import ModelUnavailableError

PULL_WAIT_S = 0.4
OSAMD_SERVE = (sys.executable, "-m", "osamd", "serve")
# The command of the image.
UVICORN_MAIN = (
    sys.executable,
    "-m",
    "uvicorn",
    "--app-dir",
    str(Path(__file__).parents[2]),
    "main:app",
    "--port",
    "{port}",
)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A server where a request waits for a model less than half a second."""
    env = {"OSAMD_PULL_WAIT_S": str(PULL_WAIT_S)}
    with run_library(tmp_path_factory.mktemp("hasty"), fresh=4, env=env) as running:
        yield running


def held(model: WebModel, role: str = "encoder") -> threading.Event:
    """Have the web server stop in the middle of a file until the event is set."""
    go_on = threading.Event()
    model.answer(role, Answer(send=400, hold=go_on))
    return go_on


def request(client: httpx2.Client, photo: bytes, model: WebModel) -> httpx2.Response:
    """The answer to the plainest request."""
    return client.post(GENERATE, json={"image": base64_of(photo), "model": model.name})


class Caller(threading.Thread):
    """A request on a thread of its own."""

    def __init__(self, library: Library, photo: bytes, model: WebModel) -> None:
        super().__init__(daemon=True)
        self._library, self._photo, self._model = library, photo, model
        self.start()

    def run(self) -> None:
        """Ask."""
        with self._library.server.client() as client:
            self._response = request(client, self._photo, self._model)

    def answer(self) -> httpx2.Response:
        """Wait for the answer."""
        self.join(WAIT_S)
        return self._response


def wait_for(library: Library, model: WebModel) -> None:
    """Return when the web server was asked for the model's first file."""
    paths = {f"/{place.name.removeprefix('sha256-')}" for place in model.places(library.cache)}
    end = time.monotonic() + WAIT_S
    while not paths & {asked.path for asked in library.web.asked}:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_first_request_pulls(library: Library, photo: bytes, fresh: WebModel) -> None:
    """The first request for a model brings it; while it comes, others answer, and a second request waits with it."""
    go_on = held(fresh)
    first = Caller(library, photo, fresh)
    wait_for(library, fresh)
    second = Caller(library, photo, fresh)
    with library.server.client() as client:
        assert ask(client, photo, model="efficientsam:10m")["annotations"]
        assert ask(client, photo)["annotations"]
    assert first.is_alive()
    assert second.is_alive()
    go_on.set()
    answers = [first.answer(), second.answer()]
    assert [200, 200] == [answer.status_code for answer in answers]
    assert answers[0].json()["annotations"][0]["mask"] == answers[1].json()["annotations"][0]["mask"]
    log = library.server.log_text()
    assert (1, 1) == (log.count(f"pulling {fresh.name}, "), log.count(f"loaded {fresh.name}"))


def test_long_pull_is_503_and_goes_on(hasty: Library, photo: bytes) -> None:
    """Past the wait, each waiter is told to come back, and how far it is; the pull completes all the same."""
    fresh = next(hasty.fresh)
    go_on = held(fresh)
    callers = [Caller(hasty, photo, fresh) for _ in range(2)]
    for caller in callers:
        answer = caller.answer()
        problem = refusal(answer)
        assert (503, "model_pulling") == (problem["status"], problem["code"])
        assert int(answer.headers["Retry-After"]) >= 1
    with hasty.server.client() as client:
        end = time.monotonic() + WAIT_S
        # How far it is, as soon as anything has arrived.
        while "% of" not in refusal(request(client, photo, fresh))["detail"]:
            assert time.monotonic() < end
        go_on.set()
        while (answer := request(client, photo, fresh)).status_code == 503:
            assert time.monotonic() < end
        assert 200 == answer.status_code
    assert 1 == hasty.server.log_text().count(f"pulling {fresh.name}, ")


def test_patient_client_gets_through(hasty: Library, photo: bytes) -> None:
    """The client tries again while a model is being pulled."""
    fresh = next(hasty.fresh)
    go_on = held(fresh)
    releaser = threading.Timer(2 * PULL_WAIT_S, go_on.set)
    releaser.start()
    with Client(hasty.server.url, api_key=KEY, patience_s=WAIT_S) as client:
        assert client.segment(photo, model=fresh.name).annotations
    releaser.join()


def test_failed_pull_is_told_to_all_and_tried_again(library: Library, photo: bytes, fresh: WebModel) -> None:
    """Where no source has it, waiters get 503, not an endless wait; a later request tries again."""
    fresh.served["encoder"].then = Answer(status=404)
    with library.server.client() as client:
        problem = refusal(request(client, photo, fresh))
        assert (503, "pull_failed") == (problem["status"], problem["code"])
        fresh.served["encoder"].then = Answer()
        assert 200 == request(client, photo, fresh).status_code


def test_client_does_not_wait_for_what_may_not_come(tmp_path: Path, photo: bytes) -> None:
    """Where pulls are forbidden, even a patient client is told at once."""
    with run_library(tmp_path, fresh=1, env={"OSAMD_PULL": "never"}) as closed:
        fresh = next(closed.fresh)
        start = time.monotonic()
        with (
            Client(closed.server.url, api_key=KEY, patience_s=WAIT_S) as client,
            pytest.raises(ModelUnavailableError, match=fresh.places(Path())[0].name),
        ):
            client.segment(photo, model=fresh.name)
        assert time.monotonic() - start < WAIT_S / 2


def test_alias_of_the_seed_document(library: Library, photo: bytes) -> None:
    """``sam_vit_b`` pulls ``sam:100m``, from where the user's catalogue says."""
    sam = library.named["sam:100m"]
    assert not any(place.exists() for place in sam.places(library.cache))
    with library.server.client() as client:
        reply = ask(client, photo, model_id="sam_vit_b")
    assert "sam:100m" == reply["model"]
    assert all(place.exists() for place in sam.places(library.cache))


def test_files_that_vanish(library: Library, photo: bytes, fresh: WebModel) -> None:
    """A loaded model answers without its files; once unloaded, the next request pulls it again."""
    with library.server.client() as client:
        ask(client, photo, model=fresh.name)
        for place in fresh.places(library.cache):
            place.unlink()
        ask(client, photo, model=fresh.name, keep_alive=0)
        asked = len(library.web.asked)
        ask(client, photo, model=fresh.name)
    assert len(fresh.contents) == len(library.web.asked) - asked


def test_files_that_are_damaged(library: Library, photo: bytes, fresh: WebModel) -> None:
    """A file that is not what the catalogue says is not loaded, without a path in the answer; a pull mends it."""
    with library.server.client() as client:
        client.post("/api/pull", json={"model": fresh.name, "stream": False})
        fresh.places(library.cache)[0].write_bytes(b"damaged")
        problem = refusal(request(client, photo, fresh))
        assert (503, "blob_digest_mismatch") == (problem["status"], problem["code"])
        assert str(library.cache) not in problem["detail"]
        client.post("/api/pull", json={"model": fresh.name, "stream": False})
        assert 200 == request(client, photo, fresh).status_code


def test_local_file_that_was_changed(tmp_path: Path, photo: bytes) -> None:
    """A model whose own file the user changed is loaded again; nothing of the old one is remembered for it."""
    with run_library(tmp_path) as library, library.server.client() as client:
        before = ask(client, photo, model="sam:300m")
        decoder = library.paths["sam:300m"]["decoder"]
        content = decoder.read_bytes()
        decoder.write_bytes(content + b"\0")
        problem = refusal(client.post(GENERATE, json={"image": base64_of(photo), "model": "sam:300m"}))
        assert "model_load_failed" == problem["code"]
        decoder.write_bytes(content)
        after = ask(client, photo, model="sam:300m")
    assert before["image_id"] != after["image_id"]
    assert before["annotations"][0]["mask"] == after["annotations"][0]["mask"]


@pytest.mark.parametrize(
    ("way", "command"),
    [("generate", OSAMD_SERVE), ("generate", UVICORN_MAIN), ("pull", OSAMD_SERVE)],
    ids=["generate", "generate under uvicorn's own command", "pull"],
)
def test_server_stops_in_the_middle_of_a_pull(tmp_path: Path, photo: bytes, way: str, command: tuple[str, ...]) -> None:
    """A stopped server ends in good time and keeps what has come; the next one goes on from there."""
    with run_library(tmp_path, fresh=1, command=command) as library:
        fresh = next(library.fresh)
        go_on = held(fresh)
        caller = Caller(library, photo, fresh) if way == "generate" else None
        with library.server.client() as client:
            if way == "pull":
                with client.stream("POST", "/api/pull", json={"model": fresh.name}) as response:
                    next(response.iter_lines())
            wait_for(library, fresh)
        library.server.process.send_signal(signal.SIGTERM)
        if caller is not None:
            problem = refusal(caller.answer())
            assert (503, "shutting_down") == (problem["status"], problem["code"])
        library.server.process.wait(WAIT_S)
        assert "Traceback" not in library.server.log_text()
        digest = fresh.places(library.cache)[0].name.removeprefix("sha256-")
        assert list((library.cache / "models" / "blobs" / ".osamd" / digest).glob("*.partial"))
        go_on.set()
        rows = str(tmp_path / "rows" / "models.toml")
        catalog = {"API_KEY": KEY, "OSAMD_CATALOG": rows, "OSAMD_PULL": "auto"}
        with run_server(cache=library.cache, env=catalog) as again, again.client() as client:
            assert 200 == request(client, photo, fresh).status_code
        resumed = [asked.start for asked in library.web.asked if asked.path == f"/{digest}"]
        assert resumed[0] == 0 < resumed[-1]
