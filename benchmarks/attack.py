"""Start a server, attack it with one user's key while another user works, and print what that user saw.

python benchmarks/attack.py [--only PART_OF_NAME] [--patience SECONDS]

SECURITY.md guarantees: whatever one key sends, another key's click on a known photo is answered within 1 s and its
new photo within 5 s on two cores, ``/health`` within 100 ms, and memory stays within the documented budget. Attacker
and good user share the machine with the server, so times are upper bounds. Exits with 1 if a guarantee is broken.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx2

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.attacks import (  # noqa: E402
    ATTACKS,
    CUT,
    GAVE_UP,
    Seen,
    Target,
    attacker_process,
    noise_handle,
    run_attack,
    watch_good_user,
    worst,
)
from benchmarks.overload import running_server  # noqa: E402

CLICK_S: Final = 1.0
PHOTO_S: Final = 5.0
HEALTH_S: Final = 0.1
# How long the good user is observed without an attack.
IDLE_S: Final = 5.0
MEMORY_BYTES: Final = 3 << 30
ATTACKER, GOOD = "attacker-secret-0123456789", "good-secret-0123456789abc"


@contextlib.contextmanager
def attacked_server(folder: Path) -> Iterator[tuple[str, int]]:
    """A server with default limits, an attacker's and a good user's key: its address and its process id."""
    with running_server(folder, secrets={"attacker": ATTACKER, "good": GOOD}, env={}) as (port, process):
        yield f"http://127.0.0.1:{port}", process


def promises(seen: Seen) -> dict[str, bool]:
    """Which guarantees held."""
    return {
        "click": worst(seen.clicks_s) <= CLICK_S,
        "photo": worst(seen.photos_s) <= PHOTO_S,
        "health": worst(seen.probes_s) <= HEALTH_S,
        "memory": seen.most_bytes <= MEMORY_BYTES,
        "good user always answered": not seen.refused,
    }


def row(name: str, seen: Seen) -> str:
    """One line of the table."""
    names = {CUT: "cut off", GAVE_UP: "gave up"}
    counts = sorted(Counter(seen.attacks).items())
    statuses = ", ".join(f"{count} x {names.get(status, status)}" for status, count in counts)
    cells = (
        name,
        f"{worst(seen.clicks_s):.2f} s",
        f"{worst(seen.photos_s):.2f} s",
        f"{worst(seen.probes_s) * 1e3:.0f} ms",
        f"{seen.most_bytes / 1e9:.2f} GB",
        f"{seen.attack_s:.1f} s, {seen.cpu_s:.1f} CPU-s: {statuses}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Attack and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--patience", type=float, default=30.0, help="how long the attacker waits for answers (30)")
    arguments = parser.parse_args()
    photo = (ROOT / "examples" / "cat.jpg").read_bytes()
    broken = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        attacked_server(Path(folder)) as (url, process),
        attacker_process() as attacker,
    ):
        with httpx2.Client(base_url=url, headers={"X-API-Key": ATTACKER}, timeout=60.0) as client:
            handle = noise_handle(client, photo)
        print("| attack | worst click | worst new photo | worst /health | most memory | the attacker's answers |")
        print("|---|---|---|---|---|---|")
        target = Target(url, process, ATTACKER, GOOD, photo, handle)
        print(row("none", asyncio.run(watch_good_user(target, seconds=IDLE_S))), flush=True)
        for name in ATTACKS:
            if arguments.only not in name:
                continue
            seen = asyncio.run(run_attack(target, name, attacker, patience_s=arguments.patience))
            print(row(name, seen), flush=True)
            missed = [promise for promise, is_kept in promises(seen).items() if not is_kept]
            if missed:
                broken += 1
                print(f"BROKEN by {name}: {', '.join(missed)} {seen.refused[:5]}", file=sys.stderr, flush=True)
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
