"""Labelme's AI models, answered by a server: what labelme asks of osam's classes, and what it gets."""

import contextlib
import io
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osam.apis
import osam.types
import pytest
from asking import BOX, CLICK
from loguru import logger
from pictures import Inside, inside_of
from PIL import Image
from serving import KEY, RunningServer, clean_environment, free_port
from waiting import WAIT_S

from osamd.client import Client, Segmentation
from osamd.errors import AccessError, InvalidPromptError, ModelUnavailableError, OsamdError, UnreachableError
from osamd.integrations import labelme

NAMES = [kind.name for kind in osam.apis.registered_model_types]
TEXT_ONLY = {"yoloworld:latest"}
Calls = list[dict[str, Any]]


class Recorder(Client):
    """Notes what was sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: Calls = []

    def segment(self, image: Any = None, **arguments: Any) -> Segmentation:
        """Note it, then do it."""
        self.calls.append(arguments | ({} if image is None else {"image": image}))
        return super().segment(image, **arguments)


class Session:
    """Asks as labelme's session does: encodes an image once, and passes image and embedding with every prompt."""

    def __init__(self, name: str, image: Any) -> None:
        self.model = osam.apis.get_model_type_by_name(name)()
        self.image = image
        self.embedding = self.model.encode_image(image=image)

    def ask(self, **prompt: Any) -> list[osam.types.Annotation]:
        """The annotations of a prompt."""
        request = osam.types.GenerateRequest(
            model=self.model.name,
            image=self.image,
            image_embedding=self.embedding,
            prompt=osam.types.Prompt(**prompt),
        )
        annotations: list[osam.types.Annotation] = self.model.generate(request=request).annotations
        return annotations

    def click(self, x: float, y: float) -> list[osam.types.Annotation]:
        """The annotations of a click."""
        return self.ask(points=np.array([[x, y]], float), point_labels=np.array([1]))


@pytest.fixture(autouse=True)
def _osams_own_models() -> Iterator[None]:
    """Put osam's models back."""
    kinds = list(osam.apis.registered_model_types)
    yield
    osam.apis.registered_model_types[:] = kinds


@pytest.fixture
def pixels(photo: bytes) -> Any:
    """The example photo as labelme passes it."""
    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))


@pytest.fixture
def answered_by() -> Iterator[Callable[..., Recorder]]:
    """Has the models of osam answered by a server, given its URL and key."""
    with contextlib.ExitStack() as opened:

        def answered_by(url: str, key: str = KEY, kind: type[Recorder] = Recorder) -> Recorder:
            client = opened.enter_context(kind(url, api_key=key, patience_s=0))
            labelme.replace_models(client)
            return client

        yield answered_by


@pytest.fixture
def recorder(osam_server: RunningServer, answered_by: Callable[..., Recorder]) -> Recorder:
    """The client that every model of osam uses now."""
    return answered_by(osam_server.url)


def full(annotation: osam.types.Annotation, image: Any) -> Inside:
    """A cropped mask in its place."""
    inside = np.zeros(image.shape[:2], bool)
    box = annotation.bounding_box
    inside[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = annotation.mask
    return inside


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_osam_is_answered_by_the_server(
    recorder: Recorder, osam_server: RunningServer, pixels: Any, name: str
) -> None:
    """Under its name, with the masks of ``/api/generate`` pixel for pixel."""
    prompt: dict[str, Any] = {"points": [BOX[:2], BOX[2:]], "point_labels": [2, 3]}
    if name in TEXT_ONLY:
        prompt = {"texts": ["cat", " dog"], "score_threshold": 0.01, "iou_threshold": 1.0, "max_annotations": 1000}
    given = {key: np.array(value) if key.startswith("point") else value for key, value in prompt.items()}
    annotations = Session(name, pixels).ask(**given)
    with Client(osam_server.url, api_key=KEY) as client:
        raw = client.segment(pixels, model=name, prompts=[prompt]).raw["annotations"]

    assert [call["model"] for call in recorder.calls] == [name]
    assert len(annotations) == len(raw) > 0
    for annotation, item in zip(annotations, raw, strict=True):
        assert annotation.bounding_box.model_dump() == item["bounding_box"]
        assert (annotation.score, annotation.text) == (item["score"], item["text"])
        if name in TEXT_ONLY:
            assert annotation.mask is None
        else:
            assert np.array_equal(full(annotation, pixels), inside_of(item))


def test_texts_come_back_to_the_byte(recorder: Recorder, pixels: Any) -> None:
    """Labelme splits its text field at commas, keeps the blanks, and looks for the texts in the answer."""
    annotations = Session("sam3:latest", pixels).ask(
        texts=["cat", " dog"], score_threshold=0.01, iou_threshold=1.0, max_annotations=1000
    )

    assert {annotation.text for annotation in annotations} == {"cat", " dog"}
    assert recorder.calls[0]["prompts"][0]["max_annotations"] == 1000


def test_the_image_is_sent_once(recorder: Recorder, pixels: Any) -> None:
    """Later prompts name its handle, also those of other kinds."""
    session = Session("sam2:latest", pixels)
    for x in (200, 225, 250):
        session.click(x, 150)
    session.ask(points=np.array([BOX[:2], BOX[2:]], float), point_labels=np.array([2, 3]))

    assert ["image" in call for call in recorder.calls] == [True, False, False, False]
    assert all(call["mask_layout"] == "crop" for call in recorder.calls)


def test_large_images_are_sent_as_jpeg(recorder: Recorder) -> None:
    """As PNG, a photo of 30 megapixels can exceed the server's limit."""
    chosen = np.random.default_rng(0)
    large = chosen.integers(0, 255, (2000, 2001, 3), np.uint8)
    Session("sam2:latest", large).click(200, 150)
    Session("sam2:latest", large[:1999, :2000].copy()).click(200, 150)
    Session("sam2:latest", large[:, :, :1].copy()).click(200, 150)
    jpeg, *arrays = (call["image"] for call in recorder.calls)
    assert jpeg.startswith(b"\xff\xd8\xff")
    assert [(1999, 2000, 3), (2000, 2001, 1)] == [array.shape for array in arrays]


@pytest.mark.usefixtures("recorder")
def test_connections_are_kept_open(pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All prompts use one connection."""
    opened = []
    connect = socket.socket.connect

    def counting(self: socket.socket, address: Any) -> None:
        opened.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", counting)
    session = Session("sam2:latest", pixels)
    for x in (200, 225, 250):
        session.click(x, 150)

    assert len(opened) == 1


def test_a_forgotten_image_is_sent_again(recorder: Recorder, pixels: Any) -> None:
    """A handle that the server no longer knows is replaced, and the mask is the same."""
    session = Session("sam2:latest", pixels)
    (before,) = session.click(*CLICK)
    recorder.forget(session.embedding.image_id)
    (after,) = session.click(*CLICK)
    session.click(*CLICK)

    assert ["image" in call for call in recorder.calls] == [True, False, True, False]
    assert np.array_equal(full(before, pixels), full(after, pixels))


def test_prompts_outside_the_image_are_clipped(recorder: Recorder, pixels: Any) -> None:
    """Labelme can be set up to draw beyond the image's edge; the server refuses points there."""
    height, width = pixels.shape[:2]
    session = Session("sam2:latest", pixels)
    session.click(width + 40.5, -3)
    session.ask(points=np.array([[-9, -9], [width + 9, height + 9]], float), point_labels=np.array([2, 3]))

    assert [call["prompts"][0]["points"].tolist() for call in recorder.calls] == [
        [[width, 0]],
        [[0, 0], [width, height]],
    ]


@pytest.mark.usefixtures("recorder")
def test_no_model_is_downloaded_or_deleted() -> None:
    """For labelme all models are here; deleting one is refused with words that its dialog shows."""
    for kind in osam.apis.registered_model_types:
        assert kind.get_size() is not None
        kind.pull()
        with pytest.raises(OSError, match=f"{kind.name} is a model on http://127"):
            kind.remove()


def test_missing_weights_are_told_in_words(
    server: RunningServer, answered_by: Callable[..., Recorder], pixels: Any
) -> None:
    """Labelme shows the class and the text of an exception."""
    answered_by(server.url)
    with pytest.raises(ModelUnavailableError, match="sam2:latest"):
        Session("sam2:latest", pixels).click(*CLICK)


def test_older_labelmes_get_no_exception(server: RunningServer, pixels: Any) -> None:
    """Before version 7 labelme closes on any, so the words go to its status bar, and nothing is found."""
    told: list[str] = []
    with Client(server.url, api_key=KEY, patience_s=0) as client:
        labelme.replace_models(client, told.append)
        assert Session("sam2:latest", pixels).click(*CLICK) == []

    (message,) = told
    assert message.startswith("ModelUnavailableError: model: sam2:latest is not on this server")


def test_a_server_that_cannot_answer_is_left_alone_for_a_while(
    answered_by: Callable[..., Recorder], pixels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelme asks at every mouse move, and its window is frozen while it waits."""
    client = answered_by(f"http://127.0.0.1:{free_port()}")
    session = Session("sam2:latest", pixels)
    for _ in range(3):
        with pytest.raises(UnreachableError, match="refused"):
            session.click(*CLICK)
    assert len(client.calls) == 1

    monkeypatch.setattr(labelme, "HOLD_S", 0.0)
    other = Session("sam2:latest", pixels)
    for _ in range(2):
        with pytest.raises(UnreachableError):
            other.click(*CLICK)
    assert len(client.calls) == 3


def test_a_refused_prompt_holds_nothing_up(recorder: Recorder, pixels: Any) -> None:
    """The next prompt may be a good one."""
    session = Session("sam2:latest", pixels)
    with pytest.raises(InvalidPromptError, match="sam2:latest takes"):
        session.ask(texts=["cat"])

    assert len(session.click(*CLICK)) == 1
    assert len(recorder.calls) == 2


class Broken(Recorder):
    """Fails as code would that has the key in a variable."""

    def segment(self, image: Any = None, **arguments: Any) -> Segmentation:
        """Fail."""
        key = KEY
        raise OsamdError(f"{key and 'failed'} {image is None} {sorted(arguments)}")


@pytest.mark.parametrize("kind", [Recorder, Broken])
def test_the_key_is_in_no_traceback(
    server: RunningServer, answered_by: Callable[..., Recorder], pixels: Any, kind: type[Recorder]
) -> None:
    """Labelme logs tracebacks with the values of variables."""
    answered_by(server.url, f"wrong-{KEY}", kind)
    log = io.StringIO()
    sink = logger.add(log, backtrace=True, diagnose=True)
    try:
        Session("sam2:latest", pixels).click(*CLICK)
    except OsamdError as error:
        logger.opt(exception=error).error("AI inference failed")
        plain = "".join(traceback.format_exception(error))
    finally:
        logger.remove(sink)

    assert "AI inference failed" in log.getvalue()
    assert "generate" in log.getvalue()
    assert KEY not in log.getvalue() + plain


def test_a_wrong_key_is_told_in_words(server: RunningServer, answered_by: Callable[..., Recorder], pixels: Any) -> None:
    """As the server says it."""
    answered_by(server.url, "wrong-wrong-wrong")
    with pytest.raises(AccessError, match="X-API-Key"):
        Session("sam2:latest", pixels).click(*CLICK)


# --- osamd labelme --------------------------------------------------------------------------------------------------

MAIN = """
import sys, loguru, numpy, osam
def main():
    print(sys.argv)
    if len(sys.argv) > 2:
        model = osam.apis.get_model_type_by_name("sam2:latest")()
        image = numpy.zeros((30, 40, 3), numpy.uint8)
        prompt = osam.types.Prompt(points=numpy.array([[9.0, 9.0]]), point_labels=numpy.array([1]))
        request = osam.types.GenerateRequest(
            model="sam2:latest", image=image, image_embedding=model.encode_image(image=image), prompt=prompt
        )
        try:
            print(len(model.generate(request=request).annotations))
        except Exception:
            loguru.logger.opt(exception=True).error("AI inference failed")
    sys.exit(3)
"""


def run_command(folder: Path, *arguments: str, version: str = "7.9.1", **env: str) -> subprocess.CompletedProcess[str]:
    """``osamd labelme`` where a stand-in for labelme is installed, unless ``version`` is empty."""
    package = folder / "labelme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(MAIN, "utf-8")
    if version:
        metadata = folder / f"labelme-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: labelme\nVersion: {version}\n", "utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "osamd", "labelme", *arguments],
        env=clean_environment({"PYTHONPATH": path} | env),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_the_command_starts_labelme(tmp_path: Path, osam_server: RunningServer) -> None:
    """With labelme's own arguments and exit code, and the server of the environment."""
    ended = run_command(tmp_path, "--labels", "cat,dog", "x", OSAMD_URL=osam_server.url, OSAMD_API_KEY=KEY)

    assert ended.stdout.splitlines() == ["['labelme', '--labels', 'cat,dog', 'x']", "1"]
    assert ended.stderr == f"osamd: labelme's AI models are answered by {osam_server.url}\n"
    assert ended.returncode == 3


def test_labelmes_log_does_not_have_the_key(tmp_path: Path, server: RunningServer) -> None:
    """It has the values of variables in all frames, those of the command too."""
    ended = run_command(tmp_path, "x", "y", OSAMD_URL=server.url, OSAMD_API_KEY=KEY)

    assert "AI inference failed" in ended.stderr
    assert "ModelUnavailableError" in ended.stderr
    assert "osamd/cli/labelme.py" in ended.stderr
    assert KEY not in ended.stderr


def test_the_commands_help_is_labelmes(tmp_path: Path) -> None:
    """No server is needed to print something."""
    ended = run_command(tmp_path, "--help", OSAMD_URL=f"http://127.0.0.1:{free_port()}")

    assert (ended.stdout, ended.returncode) == ("['labelme', '--help']\n", 3)


@pytest.mark.parametrize(
    ("version", "words"),
    [("", "labelme is not installed"), ("5.11.4", "labelme 5.11.4 is too old: expected 6.3 or newer")],
)
def test_the_command_needs_labelme(tmp_path: Path, version: str, words: str) -> None:
    """It says how to get it."""
    ended = run_command(tmp_path, "--help", version=version)

    assert ended.stderr.startswith(f"osamd: {words}")
    assert "pip install" in ended.stderr
    assert ended.returncode == 6


def test_the_command_checks_the_key_first(tmp_path: Path, server: RunningServer) -> None:
    """A wrong key is told in the terminal, before there is a window, with the variables to set."""
    ended = run_command(tmp_path, "x", OSAMD_URL=server.url, OSAMD_API_KEY="wrong-wrong-wrong")

    assert ended.returncode == 3
    assert ended.stdout == ""
    assert "OSAMD_API_KEY" in ended.stderr
    assert "wrong-wrong" not in ended.stderr
