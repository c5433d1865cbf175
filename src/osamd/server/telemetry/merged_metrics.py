"""Several processes' metrics as one text, each with a label of its own.

Otherwise, where a balancer lets another process answer each time, a counter would seem to have been reset.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

OTHER, OWN = "segmenter", "edge"
# A sample without or with labels, as prometheus_client writes it.
NAME: Final = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(\{?)")


def merged(own: bytes, others: Mapping[str, bytes], *, label: str) -> bytes:
    """Texts in Prometheus' format 0.0.4 as one, each family once.

    Args:
        own: this process's.
        others: by the value of their label ``segmenter``.
        label: the value of this process's label ``edge``.
    """
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for name, value, text in ((OWN, label, own), *((OTHER, value, text) for value, text in others.items())):
        escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        added = f'{name}="{escaped}"'.encode()
        family = b""
        own_heads: dict[bytes, list[bytes]] = {}
        for line in text.splitlines():
            if line.startswith(b"#"):
                family = line.split(b" ", 3)[2]
                own_heads.setdefault(family, []).append(line)
            else:
                samples.setdefault(family, []).append(_labelled(line, added))
        for head, lines in own_heads.items():
            heads.setdefault(head, lines)
    return b"\n".join(_lines(heads, samples)) + b"\n"


def _lines(heads: Mapping[bytes, list[bytes]], samples: Mapping[bytes, list[bytes]]) -> Iterable[bytes]:
    for family, head in heads.items():
        yield from head
        yield from samples.get(family, ())


def _labelled(sample: bytes, label: bytes) -> bytes:
    found = NAME.match(sample)
    if found is None:
        return sample
    rest = sample[found.end() :]
    return found[1] + b"{" + label + (b"," + rest if found[2] else b"}" + rest)
