"""Photos of a run that failed are taken out of its shards, so that they are tried again."""

import functools

from osamd.dataset.exports import unmark
from osamd.dataset.manifest import Manifest
from osamd.dataset.plan import STATE
from osamd.dataset.run import check_version
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import locked
from osamd.dataset.work import WHOLE, Part


def forget_failed(out: Place, manifest: Manifest, part: Part = WHOLE) -> int:
    """Make every shard with a failed photo one that is not finished.

    A journal has no gaps, so the photos behind the first failed one of a shard are segmented again as well; in a
    bucket, all photos of the shard. Shards that another process is working on are left alone.

    Args:
        out: the output folder.
        manifest: of the folder.
        part: the shards to look at.

    Returns:
        How many photos had failed.

    Raises:
        InvalidRequestError: another version of osamd began the run.
        OSError: a file cannot be read or written.
    """
    header = manifest.header
    check_version(out, header)
    shards = Shards(out / STATE / "shards")
    # While nobody else writes the files that need all shards.
    with locked(out / STATE / "lock"):
        return sum(
            shards.drop_failed(shard, unmark=functools.partial(unmark, out, shards, shard))
            for shard in part.shards(header)
        )
