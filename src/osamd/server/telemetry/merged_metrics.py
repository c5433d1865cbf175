"""Several processes' metrics as one text: those of others get a label."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

LABEL: Final = "segmenter"
# A sample without or with labels, as prometheus_client writes it.
NAME: Final = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(\{?)")


def merged(own: bytes, others: Mapping[str, bytes]) -> bytes:
    """Texts in Prometheus' format 0.0.4 as one, each family once.

    Args:
        own: this process's, which stay without the label.
        others: by the value of the label ``segmenter``.
    """
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for label, text in (("", own), *others.items()):
        escaped = label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").encode()
        family = b""
        own_heads: dict[bytes, list[bytes]] = {}
        for line in text.splitlines():
            if line.startswith(b"#"):
                family = line.split(b" ", 3)[2]
                own_heads.setdefault(family, []).append(line)
            else:
                samples.setdefault(family, []).append(_labelled(line, escaped) if label else line)
        for name, lines in own_heads.items():
            heads.setdefault(name, lines)
    return b"\n".join(_lines(heads, samples)) + b"\n"


def _lines(heads: Mapping[bytes, list[bytes]], samples: Mapping[bytes, list[bytes]]) -> Iterable[bytes]:
    for family, head in heads.items():
        yield from head
        yield from samples.get(family, ())


def _labelled(sample: bytes, value: bytes) -> bytes:
    label = LABEL.encode() + b'="' + value + b'"'
    found = NAME.match(sample)
    if found is None:
        return sample
    rest = sample[found.end() :]
    return found[1] + b"{" + label + (b"," + rest if found[2] else b"}" + rest)
