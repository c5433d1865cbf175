"""From the arguments of a run to its header and photos."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osamd.dataset.inputs import find_images
from osamd.dataset.plan import Ask, Category, Header, Item, Target
from osamd.dataset.prompts.boxes import KnownBoxes, read_data_set
from osamd.dataset.prompts.points import read_points
from osamd.errors import InvalidRequestError

UNNAMED: Final = (Category(1, "object"),)
MOST_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Prompts:
    """What to find; at most one attribute is set, and none means the boxes of an INPUT that is a data set.

    Attributes:
        boxes_from: a data set whose boxes are the prompts.
        points_from: a CSV file of clicks.
        texts: words.
        everything: all objects.
    """

    boxes_from: str | None = None
    points_from: str | None = None
    texts: tuple[str, ...] = ()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has not begun.

    Attributes:
        header: without the number of photos and their hash, which the manifest adds.
        items: the photos.
        unused: images that the file of boxes or clicks names and INPUT does not have.
    """

    header: Header
    items: list[Item]
    unused: int = 0


def make_plan(inputs: Sequence[str], prompts: Prompts, *, model: str, digest: str, shard_size: int) -> Plan:
    """Find the images and their prompts.

    Args:
        inputs: see ``find_images``.
        prompts: what to find.
        model: the model's name.
        digest: of its files; empty for a server's.
        shard_size: photos per shard.

    Raises:
        InvalidRequestError: a file cannot be read, or does not fit the others; the message says what to do.
    """
    found = find_images(inputs)
    known = _known(prompts, found.boxes)
    items = [
        Item(index, name, path, known.image_ids.get(name, index + 1), known.targets_of(name) or ())
        for index, (name, path) in enumerate(found.images.items())
    ]
    ask = _ask(prompts)
    unused = 0
    if ask in {"boxes", "points"}:
        with_targets = sum(bool(item.targets) for item in items)
        if not with_targets:
            raise InvalidRequestError(_no_match(prompts, known, items))
        unused = len(known.images.keys() - found.images.keys())
    items = _with_ids(items, known)
    header = Header(
        model=model,
        digest=digest,
        ask=ask,
        texts=prompts.texts,
        categories=known.categories,
        shard_size=shard_size,
        count=0,
        items_sha256="",
    )
    return Plan(header, items, unused)


def _ask(prompts: Prompts) -> Ask:
    if prompts.texts:
        return "text"
    if prompts.everything:
        return "everything"
    return "points" if prompts.points_from is not None else "boxes"


def _known(prompts: Prompts, own: KnownBoxes | None) -> KnownBoxes:
    if prompts.texts:
        categories = tuple(Category(number, text) for number, text in enumerate(prompts.texts, 1))
        return _only(categories, own)
    if prompts.everything:
        return _only(UNNAMED, own)
    if prompts.points_from is not None:
        categories, targets = read_points(Path(prompts.points_from))
        return KnownBoxes(categories, targets.get, own.image_ids if own else {}, dict.fromkeys(targets, ""))
    if prompts.boxes_from is not None:
        return read_data_set(Path(prompts.boxes_from))
    if own is None:
        raise InvalidRequestError(
            "say what to find: --everything, --text, --boxes-from or --points-from, or a data set with boxes as INPUT"
        )
    return own


def _only(categories: tuple[Category, ...], own: KnownBoxes | None) -> KnownBoxes:
    """No known objects, but the ids of a data set's images."""

    def none(_: str) -> tuple[Target, ...] | None:
        return None

    return KnownBoxes(categories, none, own.image_ids if own else {})


def _with_ids(items: list[Item], known: KnownBoxes) -> list[Item]:
    """Images that the data set does not know get ids behind its own."""
    if not known.image_ids:
        return items
    last = max((number for number in known.image_ids.values() if isinstance(number, int)), default=0)
    return [
        item
        if item.name in known.image_ids
        else Item(item.index, item.name, item.path, last + item.index + 1, item.targets)
        for item in items
    ]


def _no_match(prompts: Prompts, known: KnownBoxes, items: Sequence[Item]) -> str:
    source = prompts.points_from or prompts.boxes_from or "INPUT"
    here = ", ".join(item.name for item in items[:MOST_EXAMPLES])
    theirs = ", ".join(list(known.images)[:MOST_EXAMPLES])
    named = f"; it names {theirs}" if theirs else ""
    return f"{source} has no objects for any image. Images are named relative to INPUT, such as {here}{named}"


def repeated(texts: Iterable[str]) -> list[str]:
    """The words that are given more than once."""
    return [text for text, count in Counter(texts).items() if count > 1]
