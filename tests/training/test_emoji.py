from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from training.cutouts import cutouts_of
from training.emoji import is_thing, with_few_tones
from training.sources import SOURCES, NpmSource, Unpacked


@pytest.mark.parametrize(
    "name",
    [
        "1f6b4-1f3fe-200d-2640-fe0f",  # a woman on a bicycle
        "1f993",  # a zebra
        "1f354",  # a hamburger
        "1f6fb",  # a pickup truck
        "1fa9c",  # a ladder
        "2708-fe0f",  # an aeroplane
        "26bd",  # a football
    ],
)
def test_things_are_learned_from(name: str) -> None:
    """People, animals, food, vehicles and tools, from every block of Unicode."""
    assert is_thing(name)


@pytest.mark.parametrize(
    "name",
    [
        "1f1eb-1f1f7",  # the flag of France
        "1f3f4-200d-2620-fe0f",  # a pirate's flag
        "0037-fe0f-20e3",  # the key 7
        "37-fe0f-20e3",
        "1f232",  # a button with a letter
        "2197-fe0f",  # an arrow
        "264d",  # a sign of the zodiac
        "1f557",  # eight o'clock
        "1f7e8",  # a yellow square
        "1f6b3",  # a prohibition
        "2764-fe0f",  # a heart
    ],
)
def test_what_is_no_thing_is_left_out(name: str) -> None:
    """Flags, letters, digits, arrows, signs, clocks and squares."""
    assert not is_thing(name)


def test_a_person_keeps_two_skin_tones() -> None:
    """The same two whatever the order, and things of one colour stay."""
    person = [Path(f"1f477{tone}-200d-2642-fe0f.webp") for tone in ("", *(f"-1f3f{digit}" for digit in "bcdef"))]
    zebra = Path("1f993.webp")

    found = list(with_few_tones([*person, zebra]))

    assert 3 == len(found)
    assert zebra in found
    assert person[0] not in found
    assert set(found) == set(with_few_tones([zebra, *reversed(person)]))


def test_emoji_become_cutouts_with_their_licence(tmp_path: Path) -> None:
    """Things alone; the licence that goes beside the weights names both authors."""
    (source,) = (source for source in SOURCES if isinstance(source, NpmSource))
    assets = tmp_path / "package/assets"
    assets.mkdir(parents=True)
    rows, columns = np.ogrid[:256, :256]
    disc = 255 * (np.hypot(rows - 128, columns - 128) < 100)
    for name in ("1f993", "1f557"):
        cv2.imwrite(str(assets / f"{name}.webp"), np.dstack([disc] * 4).astype(np.uint8))

    package = Unpacked(source, source.version, tmp_path)
    (found,) = cutouts_of(package, Counter())

    assert ("emoji", "package/assets/1f993.webp") == (found.kind, found.name)
    licence = package.copyright_file.read_text()
    assert "Microsoft" in licence
    assert "LobeHub" in licence
