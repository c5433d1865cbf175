"""Restores embeddings sent back by callers. Pure functions."""

import contextlib
from collections.abc import Iterator, Mapping

from osamd.errors import InferenceError, InvalidRequestError
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.plurals import counted
from osamd.types import Embedding

FIELD = "image_embedding"


def restore(given: ExchangedEmbedding, shapes: Mapping[str, tuple[int | str | None, ...]], *, model: str) -> Embedding:
    """The model's embedding from arrays sent back by a caller. Looks at no values, and copies none.

    Args:
        given: the arrays, each (C, H, W) float32.
        shapes: the model's features by name in the same order, each (1, C, H, W); sizes that are not ints are dynamic.
        model: its name, for the message.

    Raises:
        InvalidRequestError: the number of arrays or a shape is wrong.
    """
    if len(given.arrays) != len(shapes):
        message = (
            f"expected {counted(len(shapes), 'array')} for {model}: embedding and {len(shapes) - 1} extra_features"
        )
        raise InvalidRequestError(message, field=FIELD)
    features = {}
    for array, (name, shape) in zip(given.arrays, shapes.items(), strict=True):
        expected = shape[1:]
        fits = all(
            not isinstance(size, int) or size == length for size, length in zip(expected, array.shape, strict=True)
        )
        if not fits:
            raise InvalidRequestError(
                f"expected {name} of {model} with the shape {expected}, not {array.shape}", field=FIELD
            )
        features[name] = array[None]
    return Embedding(height=given.height, width=given.width, features=features)


@contextlib.contextmanager
def decoding(source: ImageSource) -> Iterator[None]:
    """Decode prompts on an image; if it is an embedding sent back, that the model fails is the caller's mistake.

    Raises:
        InvalidRequestError: each of its arrays fits the graph, but not in combination.
    """
    try:
        yield
    except InferenceError as error:
        if source.exchanged is None:
            raise
        raise InvalidRequestError("not an embedding of this model", field=FIELD) from error
