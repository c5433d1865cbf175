"""Photos of a run that failed are taken out of its shards, so that they are tried again."""

from osamd.dataset.exports import unmark
from osamd.dataset.manifest import Manifest
from osamd.dataset.plan import STATE
from osamd.dataset.run import check_version
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import locked


def forget_failed(out: Place, manifest: Manifest) -> int:
    """Make every shard with a failed photo one that is not finished.

    A journal has no gaps, so the photos behind the first failed one of a shard are segmented again as well; in a
    bucket, all photos of the shard. Shards that another process is working on are left alone.

    Args:
        out: the output folder.
        manifest: of the folder.

    Returns:
        How many photos had failed.

    Raises:
        InvalidRequestError: another version of osamd began the run.
        OSError: a file cannot be read or written.
    """
    header = manifest.header
    check_version(out, header)
    shards = Shards(out / STATE / "shards")
    failed = 0
    with locked(out / STATE / "lock"):
        for shard in range(header.shard_count):
            if shards.has_failed(shard):
                # First, so that a shard is never finished while its outputs are those of before.
                unmark(out, shards, shard)
                failed += shards.drop_failed(shard, first=header.first_of(shard), count=header.size_of(shard))
    return failed
