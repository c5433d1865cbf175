"""What is asked of the engine and of a server, and whose fault an error is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_sets import NotingAnswers, PlainAnswers, block, write_photo

from osamd.batch import Result
from osamd.dataset.answers import LocalAnswers, RemoteAnswers, RowMaker
from osamd.dataset.plan import Ask, Category, Header, Item
from osamd.errors import (
    EmbeddingExpiredError,
    HungError,
    InferenceError,
    InvalidImageError,
    ModelUnavailableError,
    OsamdError,
    OutOfMemoryError,
    OverloadedError,
    UnknownModelError,
    UnreachableError,
)
from osamd.pixels.images import decode_image
from osamd.pixels.masks import mask_from_array
from osamd.types import Annotation


class NotingSegmenter:
    """Answers with one block."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, images: Sequence[Any], prompts: Sequence[Any]) -> list[Result]:
        """One result."""
        self.asked += prompts
        mask = mask_from_array(block(), offset=(0, 0), height=32, width=48)
        assert mask is not None
        return [Result(32, 48, (Annotation(mask.box, mask, 0.5, None, 0, 0),)) for _ in images]


class NotingClient:
    """Answers each prompt with a mask, and forgets the image once."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

    def segment(self, image: bytes | None, **asked: Any) -> Any:
        """As ``Client.segment``."""
        self.asked.append({"image": image, **asked})
        if asked.get("image_id") and len(self.asked) == 2:
            raise EmbeddingExpiredError("gone")
        count = len(asked.get("prompts", [None]))
        found = [
            SimpleNamespace(prompt_index=index, text=None, score=0.5, mask={"counts": "0"}) for index in range(count)
        ]
        return SimpleNamespace(image_id="handle", annotations=found)


def header(ask: Ask) -> Header:
    """A run of one photo."""
    categories = (Category(1, "cat"), Category(2, "dog")) if ask == "text" else (Category(1, "object"),)
    return Header("none", "", ask, ("cat", "dog") if ask == "text" else (), categories, 10, 1, "")


def test_everything_has_no_time_limit_here(tmp_path: Path) -> None:
    """The result must not depend on how busy the machine is; and no photo has only a part of its objects."""
    segmenter = NotingSegmenter()
    path = write_photo(tmp_path / "a.png")
    row = RowMaker(header("everything"), LocalAnswers(segmenter), decode_image)(Item(0, "a.png", str(path), 1))  # type: ignore[arg-type]
    assert [{"everything": {"max_seconds": 1e8, "max_masks": 1000}}] == segmenter.asked
    ((category, score, box),) = [(one.category, one.score, one.box) for one in row.instances]
    assert (1, 0.5, (8, 5, 27, 20)) == (category, score, box)


def test_words_are_asked_together_and_become_categories(tmp_path: Path) -> None:
    """In the order in which they are given."""
    path = write_photo(tmp_path / "a.png")
    asked: list[Any] = []

    class Texts(PlainAnswers):
        def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Any]:
            asked.extend(prompts)
            return super().__call__(data, [{"texts": ["dog"]}, {"texts": ["cat"]}])

    row = RowMaker(header("text"), Texts(), decode_image)(Item(0, "a.png", str(path), 1))
    assert [{"texts": ["cat", "dog"]}] == asked
    assert [2, 1] == [one.category for one in row.instances]


def test_a_server_gets_the_image_once_for_many_prompts() -> None:
    """More prompts than a request takes follow by handle; an expired handle sends the image again."""
    client = NotingClient()
    prompts = [{"box": [0, 0, index, 1]} for index in range(150)]
    found = RemoteAnswers(client, "none")(b"image", prompts)  # type: ignore[arg-type]
    assert list(range(150)) == [one.prompt_index for one in found]
    sent = [(one["image"], one.get("image_id"), len(one["prompts"])) for one in client.asked]
    assert [(b"image", None, 64), (None, "handle", 64), (b"image", None, 64), (None, "handle", 22)] == sent

    client = NotingClient()
    RemoteAnswers(client, "none")(b"image", [{"everything": True}])  # type: ignore[arg-type]
    assert ({"max_masks": 1000}, "rle") == (client.asked[0]["everything"], client.asked[0]["mask_format"])


@pytest.mark.parametrize(
    ("error", "is_of_the_photo"),
    [
        (InvalidImageError("broken"), True),
        (InferenceError("failed"), True),
        (HungError("hung"), True),
        (OutOfMemoryError("too large"), True),
        (OverloadedError("busy"), False),
        (UnreachableError("gone"), False),
        (ModelUnavailableError("not here"), False),
        (UnknownModelError("never heard of"), False),
    ],
)
def test_only_errors_of_the_photo_become_rows(error: OsamdError, is_of_the_photo: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Others stop the run, which can be continued once the reason is gone."""

    def fail(data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Any]:  # noqa: ARG001
        raise error

    row_of = RowMaker(header("everything"), fail, decode_image)
    item = Item(0, "a.png", str(write_photo(tmp_path / "a.png")), 1)
    if is_of_the_photo:
        assert error.code == row_of(item).code
    else:
        with pytest.raises(type(error)):
            row_of(item)


@pytest.mark.parametrize("message", ["the decoding process was killed", ""])
def test_a_photo_that_takes_too_much_memory_fails_alone(message: str, tmp_path: Path) -> None:
    """Whether it is decoded in another process, which the kernel may kill, or in this one, in the engine."""

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError(message)

    heic = tmp_path / "a.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    plain = write_photo(tmp_path / "a.png")
    rows = [
        RowMaker(header("everything"), NotingAnswers(), fail)(Item(0, "a.heic", str(heic), 1)),
        RowMaker(header("everything"), fail, decode_image)(Item(0, "a.png", str(plain), 1)),
    ]
    assert [("out_of_memory", message or "out of memory")] * 2 == [(row.code, row.message) for row in rows]
