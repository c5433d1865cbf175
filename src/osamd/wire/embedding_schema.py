"""An embedding on the wire: as osam writes it, or compact."""

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, StrictFloat, Tag

from osamd.errors import InvalidRequestError
from osamd.image_sources import ExchangedEmbedding
from osamd.types import FloatArray
from osamd.wire.base64_text import Base64Text, decode_base64
from osamd.wire.fields import AS_WHOLE_NUMBER, LONGEST_SIDE, WireModel

ArrayType = Literal["float32", "float16"]
Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE), AS_WHOLE_NUMBER]

EMBEDDING_AXES: Final = 3
# The two spellings of an array. pydantic puts them into error paths, from which they are removed again.
LISTS, BASE64 = "(lists)", "(base64)"


def _spelling_of_array(value: Any) -> str:
    return LISTS if isinstance(value, list) else BASE64


class ArraySchema(WireModel):
    """An array in base64, as osam writes the extra features of an embedding."""

    shape: list[Annotated[int, Field(strict=True, ge=1)]] = Field(min_length=3, max_length=3, description="C, H, W.")
    dtype: ArrayType
    data: Base64Text

    def to_array(self, field: str) -> FloatArray:
        """(C, H, W) float32.

        Raises:
            InvalidRequestError: it is not base64, or its size does not match the shape.
        """
        import numpy as np

        data = decode_base64(self.data, field=field)
        try:
            values = np.frombuffer(data, self.dtype).reshape(self.shape)
        except ValueError:
            raise InvalidRequestError(
                f"expected {self.dtype} values of shape {self.shape} in base64", field=field
            ) from None
        return values.astype(np.float32)


class EmbeddingSchema(WireModel):
    """An embedding: as osam's, with `embedding` as nested lists, or compact, with `embedding` in base64."""

    original_height: Side = Field(description="Rows of the upright image.")
    original_width: Side = Field(description="Columns of the upright image.")
    embedding: Annotated[
        Annotated[list[list[list[StrictFloat]]], Tag(LISTS)] | Annotated[ArraySchema, Tag(BASE64)],
        Discriminator(_spelling_of_array),
    ] = Field(description="(C, H, W)")
    extra_features: list[ArraySchema] = Field(default=[], max_length=16)

    def to_exchanged(self) -> ExchangedEmbedding:
        """The engine's value.

        Raises:
            InvalidRequestError: the lists are ragged, the base64 does not match its shape, or a value is not finite.
        """
        import numpy as np

        field = "image_embedding"
        if isinstance(self.embedding, ArraySchema):
            first = self.embedding.to_array(f"{field}.embedding")
        else:
            try:
                first = np.array(self.embedding, np.float32)
            except ValueError:
                raise InvalidRequestError("expected lists of equal lengths", field=f"{field}.embedding") from None
        if first.ndim != EMBEDDING_AXES or not first.size:
            raise InvalidRequestError("expected lists of equal lengths, none empty", field=f"{field}.embedding")
        rest = [feature.to_array(f"{field}.extra_features[{k}]") for k, feature in enumerate(self.extra_features)]
        arrays = (first, *rest)
        if not all(np.isfinite(array).all() for array in arrays):
            raise InvalidRequestError("expected finite numbers", field=field)
        return ExchangedEmbedding(height=self.original_height, width=self.original_width, arrays=arrays)
