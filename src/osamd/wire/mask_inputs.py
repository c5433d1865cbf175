"""``mask_input``: a mask to refine, by its id or as a picture."""

from typing import Final

from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.wire.base64_text import LongText, decode_base64, short_text

MASK_ID: Final = "mask_"
LONGEST_MASK_ID: Final = 64
MOST_MASK_BYTES: Final = 8_000_000


def mask_to_refine(value: str | LongText | None, field: str) -> tuple[str | None, bytes | None]:
    """The id of a mask, or its PNG; neither if there is no mask.

    Args:
        value: the field.
        field: its path in the request, for messages.

    Raises:
        InvalidPromptError: it is neither an id nor base64, or too large.
    """
    text = None if value is None else short_text(value, most=LONGEST_MASK_ID)
    if value is None or text == "":
        return None, None
    if text is not None and text.startswith(MASK_ID):
        return text, None
    try:
        data = decode_base64(value, field=field)
    except InvalidRequestError as error:
        raise InvalidPromptError(f"expected a mask_id, or a mask as a PNG in base64: {error}", field=field) from None
    check_mask_bytes(len(data), field)
    return None, data


def check_mask_bytes(nbytes: int, field: str) -> None:
    """Limit a mask to refine, which compresses well.

    Raises:
        InvalidPromptError: it is larger.
    """
    if nbytes > MOST_MASK_BYTES:
        raise InvalidPromptError(f"the mask has {nbytes:,} bytes; the limit is {MOST_MASK_BYTES:,}", field=field)
