"""What travels between an edge and a Segmenter, besides osamd's own values. All of it can be pickled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from osamd.cluster.wire_errors import WireError
from osamd.status import EngineStatus

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Grant:
    """How many images a call may encode: the edge has the rate limits, the Segmenter knows which images are new.

    Attributes:
        request_id: of the edge's request, for the Segmenter's log.
        encodes: tokens that the edge has taken for it.
        refusal: the error for any further image; None allows it.
    """

    request_id: str = ""
    encodes: int = 0
    refusal: WireError | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """How a call ended.

    Attributes:
        value: its result, if it succeeded.
        error: why it failed; None if it succeeded.
        is_bug: whether it failed by anything but an ``OsamdError``; the Segmenter's log has the traceback.
        model: full name of the model that answered, once it was known.
        stages: seconds in each stage, and when it began in seconds after the call did.
        total_s: seconds of the whole call.
        encodes: images encoded for it.
    """

    value: Value | None = None
    error: WireError | None = None
    is_bug: bool = False
    model: str | None = None
    stages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    total_s: float = 0.0
    encodes: int = 0


@dataclass(frozen=True, slots=True)
class Files:
    """A model's files on a Segmenter's disk.

    Attributes:
        nbytes: their size; None if one has just disappeared.
        modified: when the newest was written, or None.
    """

    nbytes: int | None
    modified: datetime | None


@dataclass(frozen=True, slots=True)
class Part:
    """A Segmenter as its edges see it.

    Attributes:
        status: its engine's, with its own queues.
        files: the models whose files it has, by full name.
    """

    status: EngineStatus
    files: Mapping[str, Files]
