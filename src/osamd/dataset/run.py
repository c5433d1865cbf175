"""A run: from the photos of all shards that nobody else has, through journals, to the outputs."""

import threading
from dataclasses import dataclass, field

from osamd import __version__
from osamd.dataset.exports import Background, Exports
from osamd.dataset.formats import Format
from osamd.dataset.manifest import NAME, Manifest, check_same, write_manifest
from osamd.dataset.plan import STATE, Header
from osamd.dataset.planning import Plan
from osamd.dataset.progress import Progress
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import locked
from osamd.dataset.work import WHOLE, Part, Work, Workers
from osamd.errors import InvalidRequestError


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        photos: of the whole data set.
        done: of the shards of this part, by this run or an earlier one.
        failed: of the whole data set, if ``is_finished``.
        is_finished: whether all shards are whole and all outputs written.
        busy: shards that other processes are working on.
    """

    photos: int
    done: int = 0
    failed: int = 0
    is_finished: bool = False
    busy: list[int] = field(default_factory=list)


def open_manifest(out: Place, plan: Plan | None) -> Manifest:
    """The manifest of an output folder, written first if there is none.

    Args:
        out: the output folder; created if missing.
        plan: what to do; None continues what the folder holds.

    Raises:
        InvalidRequestError: the folder holds another run, or none and there is no plan; or photos are left of one that
            another version of osamd began.
        OSError: it cannot be written.
    """
    path = out / STATE / NAME
    if plan is None:
        if not path.exists():
            raise InvalidRequestError(f"{out} holds no run to continue: give INPUT and what to find in it")
        manifest = Manifest(path)
        # Outputs are functions of the shards, so any version may add them to photos that are all done.
        if not _is_segmented(out, manifest.header):
            check_version(out, manifest.header)
        return manifest
    with locked(out / STATE / "lock"):
        if path.exists():
            check_same(Manifest(path).header, plan.header, plan.items, out)
        else:
            write_manifest(path, plan.header, plan.items)
    return Manifest(path)


def check_version(out: Place, header: Header) -> None:
    """Refuse to mix photos that two versions of osamd have segmented.

    Raises:
        InvalidRequestError: another version began the run.
    """
    if header.osamd != __version__:
        raise InvalidRequestError(
            f"{out} holds a run of osamd {header.osamd}, and this is osamd {__version__}: continue it with that"
            " version, or choose another --out"
        )


def is_segmented(out: Place) -> bool:
    """Whether an output folder holds a run whose photos are all done, so that only outputs may be missing."""
    path = out / STATE / NAME
    return path.exists() and _is_segmented(out, Manifest(path).header)


def _is_segmented(out: Place, header: Header) -> bool:
    shards = Shards(out / STATE / "shards")
    return all(map(shards.is_whole, range(header.shard_count)))


def run(
    manifest: Manifest,
    out: Place,
    *,
    formats: dict[str, Format],
    workers: Workers,
    stop: threading.Event,
    part: Part = WHOLE,
) -> Outcome:
    """Do what is left of a run.

    Args:
        manifest: of the output folder.
        out: the output folder.
        formats: the outputs to write.
        workers: who does the work.
        stop: once set, the photos in hand are finished, and no others.
        part: the shards to do.

    Raises:
        OsamdError: not of one photo; the run can be continued.
        OSError: an output cannot be written; the run can be continued.
    """
    header = manifest.header
    shards = Shards(out / STATE / "shards")
    exports = Exports(out, manifest=manifest, shards=shards, formats=formats)
    numbers = part.shards(header)
    background = Background(exports.write_shard)
    try:
        with Progress(sum(map(header.size_of, numbers))) as progress:
            work = Work(manifest, shards, numbers, progress=progress, outputs=background)
            if all(map(shards.is_whole, numbers)):
                for shard in numbers:
                    work.add_whole(shard)
            else:
                workers(work, stop=stop)
    finally:
        background.close()
    background.check()
    outcome = Outcome(header.count, done=work.done, busy=work.busy)
    if not stop.is_set() and all(map(shards.is_whole, range(header.shard_count))):
        failed = exports.finish()
        outcome.failed, outcome.is_finished = failed or 0, failed is not None
    return outcome
