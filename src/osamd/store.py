"""Blobs on disk, addressed by content, in the layout osam uses, so that a cache is shared with it."""

from importlib import resources
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from osamd.catalog import Blob, Model
from osamd.errors import ModelUnavailableError

PACKAGE_SCHEME = "package:"


class Store:
    """The blobs below one cache folder.

    Args:
        cache: the folder osam calls ``~/.cache/osam``.
    """

    def __init__(self, cache: Path) -> None:
        self._blobs = cache / "models" / "blobs"

    def paths(self, model: Model) -> dict[str, Path]:
        """The files of a model by role.

        Raises:
            ModelUnavailableError: names the first blob that is not there.
        """
        return {role: self._path(model, role, blob) for role, blob in model.blobs.items()}

    def _path(self, model: Model, role: str, blob: Blob) -> Path:
        path = self._place(blob)
        beside = [path.with_name(_file_name(attachment.url)) for attachment in blob.attachments]
        if not all(file.is_file() for file in (path, *beside)):
            raise ModelUnavailableError(
                f"{model.name} is not on this server: its {role} blob sha256-{blob.sha256} is missing", field="model"
            )
        return path

    def _place(self, blob: Blob) -> Path:
        if blob.url.startswith(PACKAGE_SCHEME):
            name = blob.url.removeprefix(PACKAGE_SCHEME)
            return Path(str(resources.files("osamd.models").joinpath("builtin_net", name)))
        place = self._blobs / f"sha256-{blob.sha256}"
        return place / _file_name(blob.url) if blob.attachments else place


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name
