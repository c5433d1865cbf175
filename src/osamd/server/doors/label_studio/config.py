"""Labelling configurations: where the image is, and how results are to be drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from osamd.errors import InvalidRequestError

# Tags that can hold results, the most faithful first.
OUTPUTS: Final = ("BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels")
RECTANGLES: Final = "RectangleLabels"
IMAGE: Final = "Image"
# Far more than the largest configurations have. A tag's attributes are read in one piece, while no other thread runs.
MOST_BYTES: Final = 500_000


@dataclass(slots=True)
class Output:
    """A tag that can hold results.

    Attributes:
        kind: one of ``OUTPUTS``.
        name: its name.
        to_name: the name of the image's tag.
        texts: what the model looks for, and the label that results then get.
    """

    kind: str
    name: str
    to_name: str
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> frozenset[str]:
        """Its labels."""
        return frozenset(self.texts.values())


@dataclass(frozen=True, slots=True)
class Config:
    """A labelling configuration.

    Attributes:
        images: the field of a task's data with the image's address, by the name of the image's tag.
        outputs: the tags that can hold results, the most faithful first.
    """

    images: Mapping[str, str]
    outputs: tuple[Output, ...]

    def output_for(self, label: str | None, *, has_masks: bool) -> Output:
        """Where to put results.

        Args:
            label: the label they are to have; None for any.
            has_masks: whether the model returns masks, not only boxes.

        Raises:
            InvalidRequestError: there is no such tag.
        """
        for output in self.outputs:
            if (has_masks or output.kind == RECTANGLES) and (label is None or label in output.labels):
                return output
        kinds = ", ".join(OUTPUTS) if has_masks else RECTANGLES
        wanted = "" if label is None else f" with the label {label!r}"
        raise InvalidRequestError(f"expected one of {kinds}{wanted} for the image", field="label_config")


def read_config(text: str) -> Config:
    """Read a labelling configuration.

    Raises:
        InvalidRequestError: it is too long, not XML, declares entities, or has no image.
    """
    content = text.encode("utf-8", "replace")
    if len(content) > MOST_BYTES:
        raise InvalidRequestError(
            f"the labelling configuration has {len(content):,} bytes: the limit is {MOST_BYTES:,}", field="label_config"
        )
    images: dict[str, str] = {}
    outputs: list[Output] = []
    # Of each open tag, the innermost output around its content.
    inside: list[Output | None] = [None]

    def start(tag: str, given: dict[str, str]) -> None:
        output = owner = inside[-1]
        if tag == IMAGE:
            images[given.get("name", "")] = given.get("value", "").strip().removeprefix("$")
        elif tag in OUTPUTS:
            output = Output(tag, given.get("name", ""), given.get("toName", ""))
            outputs.append(output)
        elif tag == "Label" and owner is not None:
            label = given.get("alias") or given.get("value", "")
            words = given.get("predicted_values", "").split(",")
            for word in filter(None, (word.strip() for word in [*words, given.get("value", "")])):
                owner.texts.setdefault(word, label)
        inside.append(output)

    def refuse(*_: object) -> None:
        raise InvalidRequestError("expected a labelling configuration without a DTD", field="label_config")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: inside.pop()
    # Entities could grow without bounds.
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)  # noqa: FBT003 - "this is all", in C
    except expat.ExpatError:
        raise InvalidRequestError("expected a labelling configuration in XML", field="label_config") from None
    if not images:
        raise InvalidRequestError("expected a labelling configuration with an Image tag", field="label_config")
    shown = [output for output in outputs if output.to_name in images]
    return Config(images, tuple(sorted(shown, key=lambda output: OUTPUTS.index(output.kind))))
