"""What ``segment`` sends for its arguments: nothing is dropped, nothing becomes another question."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from puppet import GOOD, Puppet, Told, puppet

from osamd.client import Client, SegmentArguments
from osamd.client.arguments import ONE_PROMPT, segment_call
from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.wire.schemas import GenerateBody

POINT = [225, 150]


@pytest.fixture
def told() -> Iterator[Puppet]:
    """A server that finds nothing and remembers what it was asked."""
    with puppet(Told(200, GOOD)) as server:
        yield server


def body(**arguments: Any) -> dict[str, Any]:
    """The JSON of a call for some handle, without the handle."""
    sent = dict(segment_call(None, {"image_id": "img_1", **arguments}).body or {})
    assert "img_1" == sent.pop("image_id")
    return sent


@pytest.mark.parametrize("name", ["points", "labels", "box", "texts", "prompts"])
@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 2)), iter(())], ids=["list", "tuple", "array", "iterator"])
def test_empty_prompts_are_refused(name: str, empty: object) -> None:
    """They would become the click in the middle; the message names the argument and the way to ask for that."""
    with pytest.raises(InvalidPromptError, match=f"omit {name} to use") as caught:
        body(**{name: empty})
    assert name == caught.value.field


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ({"points": [POINT]}, {"points": [POINT], "point_labels": [1]}),
        ({"points": POINT}, {"points": [POINT], "point_labels": [1]}),
        ({"points": (225, 150), "labels": 0}, {"points": [POINT], "point_labels": [0]}),
        ({"points": np.array([POINT, [1, 2]])}, {"points": [POINT, [1, 2]], "point_labels": [1, 1]}),
        ({"points": np.array(POINT, np.float32)}, {"points": [[225.0, 150.0]], "point_labels": [1]}),
        ({"points": zip([1, 2], [3, 4], strict=True)}, {"points": [[1, 3], [2, 4]], "point_labels": [1, 1]}),
        (
            {"points": [np.array(POINT), (np.int64(1), np.float64(2))], "labels": np.array([1, 0])},
            {"points": [POINT, [1, 2.0]], "point_labels": [1, 0]},
        ),
        ({"points": [POINT], "labels": np.array([True])}, {"points": [POINT], "point_labels": [True]}),
        ({"labels": [1]}, {"point_labels": [1]}),
        ({"box": np.array([1, 2, 3, 4], np.int32)}, {"box": [1, 2, 3, 4]}),
        ({"box": (0, 0, 0, 0)}, {"box": [0, 0, 0, 0]}),
        ({"box": 0}, {"box": 0}),
        ({"texts": "cat"}, {"texts": ["cat"]}),
        ({"texts": ""}, {"texts": [""]}),
        ({"texts": ("cat", "dog")}, {"texts": ["cat", "dog"]}),
        ({"texts": np.array(["cat"])}, {"texts": ["cat"]}),
        ({"mask_input": ""}, {"mask_input": ""}),
    ],
)
def test_prompts_are_sent_as_they_are_meant(arguments: dict[str, Any], prompt: dict[str, Any]) -> None:
    """Arrays, tuples and iterators are lists; one of something is a list of it; the server judges the rest."""
    assert {"prompt": prompt} == body(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({"multimask": False}, {"multimask": False}),
        ({"multimask": np.bool_(1)}, {"multimask": True}),
        ({"include": []}, {"include": []}),
        ({"include": "image_embedding"}, {"include": ["image_embedding"]}),
        ({"keep_alive": 0}, {"keep_alive": 0}),
        ({"fill_holes": 0, "simplify": np.float32(1.5)}, {"fill_holes": 0, "simplify": 1.5}),
        ({"drop_islands": np.int64(9), "smooth": 0.0}, {"drop_islands": 9, "smooth": 0.0}),
        ({"keep_alive": "5m"}, {"keep_alive": "5m"}),
        ({"model": ""}, {"model": ""}),
        ({"mask_format": ""}, {"mask_format": ""}),
        ({"prompts": {"box": np.arange(4)}}, {"prompts": [{"box": [0, 1, 2, 3]}]}),
        ({"prompts": [{"points": np.array([POINT])}]}, {"prompts": [{"points": [POINT]}]}),
        (dict.fromkeys(["points", "labels", "box", "texts", "prompts", "include", "keep_alive", "multimask"]), {}),
    ],
)
def test_options_are_sent_even_when_falsy(arguments: dict[str, Any], sent: dict[str, Any]) -> None:
    """None alone stands for not given."""
    assert sent == body(**arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"points": 5}, "points: expected x, y or a list of points"),
        ({"points": {1, 2}}, "points: cannot be sent as JSON: set"),
        ({"texts": b"cat"}, "texts: cannot be sent as JSON: bytes"),
        ({"box": [0, 0, float("nan"), 1]}, "box: expected finite numbers"),
        ({"points": np.array([[np.inf, 1]])}, "points: expected finite numbers"),
        ({"prompts": [{"box": [0, 0, 1, float("inf")]}]}, "prompts.box: expected finite numbers"),
    ],
)
def test_arguments_that_json_cannot_hold_are_refused(arguments: dict[str, Any], part: str) -> None:
    """In a line that names the argument, instead of json's own error."""
    with pytest.raises(InvalidRequestError) as caught:
        body(**arguments)
    assert part == f"{caught.value.field}: {caught.value}"


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=1, max_size=20))
def test_array_of_points_is_the_list_of_points(points: list[tuple[float, float]]) -> None:
    """Whatever the coordinates, float32 survives the way through JSON."""
    lists = [list(point) for point in points]
    assert (
        lists
        == body(points=np.array(points, np.float32))["prompt"]["points"]
        == body(points=points)["prompt"]["points"]
    )


def test_every_field_of_the_api_has_an_argument() -> None:
    """What ``POST /api/generate`` takes, the client can ask for."""
    # Image and prompt are made of other arguments; embeddings and the server's own paths are for osam's clients.
    elsewhere = {"annotations", "image", "image_embedding", "image_path", "image_url", "prompt"}
    assert set(GenerateBody.model_fields) == set(SegmentArguments.__annotations__) - {*ONE_PROMPT} | elsewhere


def test_arguments_reach_the_wire(told: Puppet, tmp_path: Path) -> None:
    """As JSON, and an image of no bytes too, for the server to refuse."""
    path = tmp_path / "empty.jpg"
    path.touch()
    with Client(told.url) as client:
        client.segment(path, points=np.array([[1.5, 2]]), include=[], keep_alive=0)
        client.forget("a/b?c")

    assert {
        "image": "", "prompt": {"points": [[1.5, 2.0]], "point_labels": [1]}, "include": [], "keep_alive": 0
    } == told.document(0)  # fmt: skip
    assert "/api/images/a%2Fb%3Fc" == told.paths[-1]
