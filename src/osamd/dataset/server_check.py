"""Whether a server can do a run: asked once, before the run begins."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from osamd.client import Client
from osamd.dataset.plan import Ask
from osamd.errors import (
    CapacityError,
    InvalidPromptError,
    InvalidRequestError,
    PullForbiddenError,
    UnreachableError,
    WrongKeysError,
)
from osamd.library.rows import shown_url

# A host that was scaled to zero may need this long.
STARTING_S: Final = 60.0
# Capabilities as in /api/show: one of these is enough.
NEEDED: Final[Mapping[Ask, frozenset[str]]] = {
    "text": frozenset({"texts"}),
    "boxes": frozenset({"box", "boxes"}),
    "points": frozenset({"points"}),
    "everything": frozenset({"points"}),
}


def check_server(url: str, *, key: str | None, model: str, ask: Ask, tell: Callable[[str], None]) -> None:
    """Refuse a run that would fail at every photo.

    Args:
        url: of the server.
        key: the API key, or None.
        model: the model's name.
        ask: how objects are found.
        tell: called with a line of text if the server is starting or busy, which is waited for.

    Raises:
        UnreachableError: nobody answers.
        AccessError: the key is missing or wrong.
        UnknownModelError: the server has no such model.
        PullForbiddenError: the server does not have its files, and this key may not have them pulled.
        InvalidPromptError: the model does not take such prompts.
        InvalidRequestError: it returns no masks.
        OsamdError: the server was busy for too long.
    """
    found = _shown(url, key, model, tell)
    can = found.get("capabilities")
    if not isinstance(can, list):
        raise UnreachableError("unexpected answer: is this an osamd server?")
    if not NEEDED[ask].intersection(can):
        raise InvalidPromptError(f"{model} takes {found.get('takes')}; this run asks for {ask}")
    if "masks" not in can:
        raise InvalidRequestError(f"{model} returns no masks: use another --model")
    if not (found.get("is_present") or found.get("may_pull")):
        raise PullForbiddenError(
            f"{shown_url(url)} does not have {model} yet, and this key may not have it pulled: ask its operator,"
            " or use another --model"
        )


def _shown(url: str, key: str | None, model: str, tell: Callable[[str], None]) -> Mapping[str, Any]:
    try:
        with Client(url, api_key=key, patience_s=0) as client:
            return client.show_model(model)
    except (UnreachableError, CapacityError) as error:
        # With a cause, there was no answer at all.
        if error.__cause__ is not None or isinstance(error, WrongKeysError):
            raise
        tell(f"{error}; trying again for up to {STARTING_S:.0f} s")
    with Client(url, api_key=key, patience_s=STARTING_S) as client:
        return client.show_model(model)
