"""Which emoji show a thing: people, animals, food, vehicles, tools; not flags, letters, signs, symbols or clocks.

A file is named by the code points of its emoji, ``1f468-1f3fb-200d-1f373.webp``: a man, a skin tone, a joiner, a pan.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

SKIN_TONES: Final = range(0x1F3FB, 0x1F400)
MOST_TONES: Final = 2
KEYCAP: Final = 0x20E3
# Blocks of Unicode whose emoji are things, first and last; below and between are letters, arrows, flags and squares.
THINGS: Final = ((0x2600, 0x27BF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1FAFF))
# What is no thing in those blocks: weather, chess, cards, the zodiac, religions, warnings, stars, ticks and crosses;
# skies, views, notes, flags, charts, hearts, bubbles of speech, buttons and clocks; traffic signs and signs on doors.
NO_THINGS: Final = (
    "2600-2601 2604 2611 2622-2638 2640-2691 2695 2699-26ab 26c5-26c8 26ce 26d4 2705 2714-2716 271d-27bf "
    "1f300-1f301 1f303-1f320 1f324-1f32c 1f386-1f387 1f38c 1f391 1f3a6 1f3b4-1f3b6 1f3bc 1f3c1 1f3e7 "
    "1f3f3-1f3f4 1f493-1f4a0 1f4a2 1f4a4-1f4a6 1f4a8 1f4ab-1f4af 1f4b1-1f4b2 1f4b9 1f4c8-1f4ca 1f4db "
    "1f4f3-1f4f6 1f500-1f50a 1f515 1f518-1f524 1f52f-1f549 1f54e-1f569 1f573 1f5a4 1f5e8-1f5ef 1f5fe "
    "1f6a9 1f6ab-1f6b1 1f6b3 1f6b7-1f6bc 1f6be 1f6c2-1f6c5 1f6d0-1f6d1 1f6d7 1f6dc 1f6e3-1f6e4 1f90d-1f90e "
    "1f9e1 1fa75-1fa77 1faaf"
)


def is_thing(name: str) -> bool:
    """Whether the emoji of this file name, without its ending, shows a thing."""
    points = [int(point, 16) for point in name.split("-")]
    is_in_block = any(first <= points[0] <= last for first, last in THINGS)
    return is_in_block and points[0] not in _LEFT_OUT and KEYCAP not in points


def with_few_tones(paths: Iterable[Path]) -> Iterator[Path]:
    """Of each person at most two skin tones, the same two in every run; without the yellow one if there are others."""
    people: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        points = path.stem.split("-")
        person = tuple(point for point in points if int(point, 16) not in SKIN_TONES)
        people.setdefault(person, []).append(path)
    for variants in people.values():
        toned = [path for path in variants if any(int(point, 16) in SKIN_TONES for point in path.stem.split("-"))]
        chosen = sorted(toned, key=lambda path: hashlib.sha256(path.stem.encode()).digest())[:MOST_TONES]
        yield from sorted(chosen) or variants


def _points(ranges: str) -> Iterator[int]:
    for item in ranges.split():
        first, _, last = item.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


_LEFT_OUT: Final = frozenset(_points(NO_THINGS))
