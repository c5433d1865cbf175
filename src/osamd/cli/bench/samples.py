"""Measurements: answers, phases of answers, and statistics. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The server's total time for a request, reported beside the stages.
TOTAL = "total"
# The part of it that belongs to no stage, such as waiting for a model to load.
OTHER = "other"
# Time outside the server: network, proxies, and the client itself.
OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as the client saw it.

    Attributes:
        seconds: from the call to the parsed result.
        sent_bytes: of the request's body.
        received_bytes: of the answer's body.
        stages_ms: milliseconds by stage, as reported by the server.
    """

    seconds: float
    sent_bytes: int
    received_bytes: int
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Phase:
    """Answers to requests of one kind.

    Attributes:
        name: the kind of request.
        answers: at least one.
        elapsed_s: seconds from the first request to the last answer.
        clients: number of concurrent clients.
        refused: requests rejected because the server was too busy.
    """

    name: str
    answers: Sequence[Answer]
    elapsed_s: float
    clients: int = 1
    refused: int = 0

    @property
    def seconds(self) -> list[float]:
        """Seconds of each answer, sorted."""
        return sorted(answer.seconds for answer in self.answers)

    @property
    def per_second(self) -> float:
        """Answers per second, over all clients."""
        return len(self.answers) / self.elapsed_s

    @property
    def sent_bytes(self) -> float:
        """Mean size of a request's body."""
        return statistics.mean(answer.sent_bytes for answer in self.answers)

    @property
    def received_bytes(self) -> float:
        """Mean size of an answer's body."""
        return statistics.mean(answer.received_bytes for answer in self.answers)

    def stages_ms(self) -> dict[str, float]:
        """Mean milliseconds by stage in server order, then ``other`` and ``outside``; they add up to the total."""
        names = dict.fromkeys(name for answer in self.answers for name in answer.stages_ms)
        found = {name: statistics.mean(answer.stages_ms.get(name, 0.0) for answer in self.answers) for name in names}
        whole = statistics.mean(self.seconds) * 1e3
        total = found.pop(TOTAL, 0.0)
        told = sum(found.values())
        other = max(0.0, total - told)
        return found | {OTHER: other, OUTSIDE: max(0.0, whole - told - other)}

    def as_json(self) -> dict[str, Any]:
        """All statistics, and the seconds of each answer."""
        return {
            "name": self.name,
            "clients": self.clients,
            "answers": len(self.answers),
            "refused": self.refused,
            "elapsed_s": round(self.elapsed_s, 6),
            "per_second": round(self.per_second, 3),
            **{f"p{share}_s": round(percentile(self.seconds, share), 6) for share in (50, 90, 99, 100)},
            "sent_bytes": round(self.sent_bytes),
            "received_bytes": round(self.received_bytes),
            "stages_ms": {name: round(value, 3) for name, value in self.stages_ms().items()},
            "seconds": [round(answer.seconds, 6) for answer in self.answers],
        }


@dataclass(frozen=True, slots=True)
class Result:
    """A whole measurement.

    Attributes:
        url: the server.
        model: full name of the model that answered.
        width: columns of the photo.
        height: rows of the photo.
        at: when it started, ISO 8601 in UTC.
        phases: in the order they were measured.
    """

    url: str
    model: str
    width: int
    height: int
    at: str
    phases: Sequence[Phase]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "url": self.url,
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "at": self.at,
            "phases": [phase.as_json() for phase in self.phases],
        }


def percentile(ordered: Sequence[float], share: int) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]
