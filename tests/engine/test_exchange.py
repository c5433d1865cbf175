import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from osamd.engine.exchange import restore
from osamd.errors import InvalidRequestError
from osamd.image_sources import ExchangedEmbedding
from osamd.models.base import Shape
from osamd.types import Embedding, FloatArray
from osamd.wire.replies import exchanged

SHAPES: dict[str, Shape] = {"fine": (1, 2, 4, 4), "coarse": (1, 3, "rows", None)}
Pair = tuple[FloatArray, FloatArray]


def array(*shape: int) -> FloatArray:
    """Numbers in order."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def given_embedding(*given_arrays: FloatArray) -> ExchangedEmbedding:
    """An embedding that came back."""
    return ExchangedEmbedding(height=30, width=40, arrays=given_arrays)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Finite values of fitting shapes."""
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    fine = draw(arrays.arrays(np.float32, (2, 4, 4), elements=finite))
    return fine, draw(arrays.arrays(np.float32, (3, rows, columns), elements=finite))


@given(pairs())
def test_there_and_back(pair: Pair) -> None:
    """What leaves and comes back is the same embedding, to the bit."""
    features = {name: values[None] for name, values in zip(SHAPES, pair, strict=True)}
    sent = exchanged(Embedding(height=30, width=40, features=features))
    back = restore(sent, SHAPES, model="mine")
    assert (30, 40) == (back.height, back.width)
    assert list(SHAPES) == list(back.features)
    for name, values in back.features.items():
        assert np.float32 == values.dtype
        np.testing.assert_array_equal(values, features[name])


def test_half_precision_leaves_as_float32() -> None:
    """Clients of osam know float32 only."""
    sent = exchanged(Embedding(height=1, width=1, features={"image": np.ones((1, 3, 2, 2), np.float16)}))
    assert [np.dtype(np.float32)] == [values.dtype for values in sent.arrays]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((array(2, 4, 4),), "expected 2 arrays for mine: embedding and 1 extra_features"),
        ((array(2, 4, 4), array(3, 1, 1), array(1, 1, 1)), "expected 2 arrays for mine"),
        ((array(2, 4, 5), array(3, 1, 1)), r"expected fine of mine with the shape \(2, 4, 4\), not \(2, 4, 5\)"),
        (
            (array(2, 4, 4), array(4, 1, 1)),
            r"expected coarse of mine with the shape \(3, 'rows', None\), not \(4, 1, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong: tuple[FloatArray, ...], words: str) -> None:
    """Too few, too many, and other shapes are the caller's mistake, in words."""
    with pytest.raises(InvalidRequestError, match=words) as caught:
        restore(given_embedding(*wrong), SHAPES, model="mine")
    assert "image_embedding" == caught.value.field
