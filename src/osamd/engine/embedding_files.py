"""Embeddings on disk, so that image handles survive a restart. Off unless disk space is configured.

::

    OWNER/IMAGE_ID.npz      OWNER is a hash of the key's name; NumPy's format, uncompressed
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osamd.engine.folder_budget import FolderBudget
from osamd.files import temporary_folder
from osamd.settings import Settings
from osamd.types import AnyFloatArray, Embedding, SmallPicture

logger = logging.getLogger("osamd")

IMAGE_ID: Final = re.compile(r"img_[0-9a-f]{32}")
SUFFIX: Final = ".npz"


@dataclass(frozen=True, slots=True, eq=False)
class KeptEmbedding:
    """An embedding stored on disk.

    Attributes:
        embedding: the encoded image.
        model: full name of the model that made it.
        digest: of that model's files.
    """

    embedding: Embedding
    model: str
    digest: str


class EmbeddingFiles:
    """LRU cache of files, safe for several processes. Blocks, so do not use it on an event loop.

    Values are stored in half precision if they fit, and restored to their dtype; a mask may differ by a pixel.

    Args:
        folder: created on the first write.
        capacity_bytes: limit on the total size of all files.
        ttl_s: seconds after which an unused file expires.
        clock: seconds since the epoch, as the file system counts them.
    """

    def __init__(
        self, folder: Path, *, capacity_bytes: int, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._budget = FolderBudget(self._listed, capacity_bytes=capacity_bytes, ttl_s=ttl_s, clock=clock)

    def get(self, image_id: str, *, owner: str) -> KeptEmbedding | None:
        """The stored embedding; None if it is unknown, expired, another owner's or corrupt."""
        path = self._path(image_id, owner)
        if path is None:
            return None
        try:
            if self._clock() - path.stat().st_mtime > self._ttl_s:
                return None
            kept = _read(path)
            # Reading works on a read-only volume too.
            with contextlib.suppress(OSError):
                self._touch(path)
        # Missing or temporarily unreadable (too many open files, a failing disk): the file may be good, so keep it.
        except (OSError, MemoryError):
            return None
        # A truncated or modified file can fail in any way; the image is encoded again.
        except Exception:  # noqa: BLE001
            logger.warning("deleting a corrupt embedding file: %s", path.name)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return kept

    def put(self, image_id: str, kept: KeptEmbedding, *, owner: str) -> None:
        """Store it; if the disk is full or read-only, it is only logged."""
        path = self._path(image_id, owner)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(self._folder) as folder:
                # Renamed when complete, so that no reader sees half a file.
                file = folder / "part"
                _write(file, kept)
                nbytes = file.stat().st_size
                if nbytes <= self._capacity_bytes:
                    self._budget.add(path, nbytes)
                    self._touch(file)
                    file.replace(path)
        except OSError as error:
            logger.warning("could not store an embedding on disk: %s", error.strerror)

    def delete(self, image_id: str, *, owner: str) -> bool:
        """Delete it; False if this owner has none."""
        path = self._path(image_id, owner)
        try:
            if path is not None:
                path.unlink()
        except OSError:
            return False
        return path is not None

    def sweep(self) -> None:
        """Delete expired files; what cannot be deleted is tried again the next time."""
        try:
            self._budget.delete_expired()
        except OSError as error:
            logger.warning("could not look for expired embeddings on disk: %s", error.strerror)

    def touch(self, image_id: str, *, owner: str) -> None:
        """Note that it was used, so that it is neither expired nor the next to be deleted."""
        path = self._path(image_id, owner)
        if path is not None:
            with contextlib.suppress(OSError):
                self._touch(path)

    def _touch(self, path: Path) -> None:
        os.utime(path, (self._clock(), self._clock()))

    def _path(self, image_id: str, owner: str) -> Path | None:
        # Handles come from callers and must not become arbitrary paths.
        if not IMAGE_ID.fullmatch(image_id):
            return None
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:32] / f"{image_id}{SUFFIX}"

    def _listed(self) -> Iterator[Path]:
        """All embeddings in the folder, but nothing behind links and no other program's arrays."""
        folders: list[str] = []
        # Nothing has been stored yet.
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as owners:
            folders += [owner.path for owner in owners if owner.is_dir(follow_symlinks=False)]
        for folder in folders:
            # Another process stores a file in a temporary folder here, and deletes that folder meanwhile.
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and IMAGE_ID.fullmatch(entry.name.removesuffix(SUFFIX)):
                        yield Path(entry.path)


def embedding_files(settings: Settings) -> EmbeddingFiles | None:
    """The file cache as configured; None if no disk space is configured."""
    if not settings.embedding_disk_bytes:
        return None
    return EmbeddingFiles(
        settings.cache / "osamd" / "embeddings",
        capacity_bytes=settings.embedding_disk_bytes,
        ttl_s=settings.embedding_disk_ttl_s,
    )


def _write(file: Path, kept: KeptEmbedding) -> None:
    import numpy as np

    embedding = kept.embedding
    picture = embedding.picture
    arrays = [_halved(feature) for feature in embedding.features.values()]
    about = {
        "height": embedding.height,
        "width": embedding.width,
        "features": [[name, feature.dtype.name] for name, feature in embedding.features.items()],
        "model": kept.model,
        "digest": kept.digest,
        "notes": embedding.notes,
        "picture": None if picture is None else [picture.rows, picture.columns],
    }
    # After the features, where versions that know no pictures do not look.
    pictures = [] if picture is None else [picture.jpeg]
    with file.open("wb") as open_file:
        np.savez(open_file, np.frombuffer(json.dumps(about).encode(), np.uint8), *arrays, *pictures)


def _halved(values: AnyFloatArray) -> AnyFloatArray:
    import numpy as np

    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.isfinite(half).all() else values


def _read(path: Path) -> KeptEmbedding:
    import numpy as np

    from osamd.pixels.windows import check_picture

    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        about = json.loads(archive["arr_0"].tobytes())
        features = {
            name: archive[f"arr_{index}"].astype(dtype) for index, (name, dtype) in enumerate(about["features"], 1)
        }
        picture = None
        # Files written by older versions have no picture; small objects are not looked at again.
        if about.get("picture") is not None:
            rows, columns = about["picture"]
            picture = SmallPicture(archive[f"arr_{len(features) + 1}"], int(rows), int(columns))
            check_picture(picture)
    embedding = Embedding(
        height=int(about["height"]),
        width=int(about["width"]),
        features=features,
        # Files written by older versions have none.
        notes=tuple(about.get("notes", ())),
        picture=picture,
    )
    return KeptEmbedding(embedding, model=str(about["model"]), digest=str(about["digest"]))
