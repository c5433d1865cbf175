"""The expected inputs and outputs of a family's graphs, checked at load: names, types, ranks and fixed sizes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from osamd.errors import ModelLoadError
from osamd.runtime.sessions import Session

Shape = tuple[int | str | None, ...]

FLOAT: Final = "float"
INT64: Final = "int64"
UINT8: Final = "uint8"
BOOL: Final = "bool"


@dataclass(frozen=True, slots=True)
class Input:
    """What an adapter feeds to an input of a graph.

    Attributes:
        type: the element type in ONNX Runtime's terms, such as ``float`` for float32.
        shape: sizes; a name for one that varies between prompts, None for one the adapter adapts to.
    """

    type: str
    shape: Shape

    def __str__(self) -> str:
        """A description such as ``float (1, N, 2)``."""
        return f"{self.type} {_shown(self.shape)}"


def check_inputs(session: Session, expected: Mapping[str, Input]) -> None:
    """Check that a graph accepts its adapter's inputs. Dynamic sizes accept anything.

    Args:
        session: the loaded graph.
        expected: all its inputs by name.

    Raises:
        ModelLoadError: names the input and what was expected.
    """
    for name, wanted in expected.items():
        if name not in session.input_shapes:
            found = ", ".join(session.input_shapes)
            raise ModelLoadError(f"{session.path}: expected an input {name}, {wanted}; its inputs are: {found}")
        found_type, found_shape = session.input_types[name], session.input_shapes[name]
        takes_all = all(
            not isinstance(size, int)
            for size, varies in zip(found_shape, wanted.shape, strict=False)
            if isinstance(varies, str)
        )
        if found_type != wanted.type or not takes_all or not _agree(wanted.shape, found_shape):
            actual = Input(found_type, found_shape)
            raise ModelLoadError(f"{session.path}: expected the input {name} to be {wanted}; it is {actual}")
    unknown = [name for name in session.input_shapes if name not in expected]
    if unknown:
        raise ModelLoadError(
            f"{session.path}: expected no inputs other than {', '.join(expected)}; it also has {', '.join(unknown)}"
        )


def check_outputs(session: Session, expected: Mapping[str, Shape]) -> None:
    """Check that a graph has the outputs its adapter reads. Unknown shapes are accepted.

    Args:
        session: the loaded graph.
        expected: shapes of outputs by name; only fixed sizes are compared.

    Raises:
        ModelLoadError: names the output and what was expected.
    """
    for name, shape in expected.items():
        if name not in session.output_shapes:
            found = ", ".join(session.output_shapes)
            raise ModelLoadError(f"{session.path}: expected an output {name} {_shown(shape)}; its outputs are: {found}")
        found_shape = session.output_shapes[name]
        if found_shape and not _agree(shape, found_shape):
            raise ModelLoadError(
                f"{session.path}: expected the output {name} to be {_shown(shape)}; it is {_shown(found_shape)}"
            )


def passed_on(encoder: Session, outputs: Sequence[str], decoder: Session, names: Iterable[str]) -> dict[str, Shape]:
    """The shapes of what an encoder computes for a decoder, as far as either fixes them.

    Args:
        encoder: its graph.
        outputs: its outputs, in the order of the names.
        decoder: its graph.
        names: its inputs.

    Raises:
        ModelLoadError: the encoder computes something else than the decoder reads.
    """
    shapes = {name: decoder.input_shapes[name] for name in names}
    check_outputs(encoder, dict(zip(outputs, shapes.values(), strict=True)))
    return {
        name: _narrowed(shape, encoder.output_shapes[output])
        for (name, shape), output in zip(shapes.items(), outputs, strict=True)
    }


def _narrowed(shape: Shape, other: Shape) -> Shape:
    """A shape with the other's sizes where its own are not fixed; the other may be unknown, ``()``."""
    if len(shape) != len(other):
        return shape
    return tuple(one if isinstance(one, int) else more for one, more in zip(shape, other, strict=True))


def _agree(wanted: Shape, found: Shape) -> bool:
    """Whether two shapes have the same rank, and equal sizes where both are fixed."""
    return len(wanted) == len(found) and all(
        not (isinstance(one, int) and isinstance(other, int)) or one == other
        for one, other in zip(wanted, found, strict=True)
    )


def _shown(shape: Shape) -> str:
    sizes = ["?" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
