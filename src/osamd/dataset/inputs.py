"""INPUT: folders, patterns, lists of files, single images, and data sets that name their images."""

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osamd.dataset.plan import STATE
from osamd.dataset.prompts.boxes import JSON_SUFFIX, YAML_SUFFIXES, KnownBoxes, is_data_set, read_data_set
from osamd.dataset.urls import Place, UrlPath, is_url, place_of
from osamd.errors import InvalidRequestError

# Of the formats that are decoded; in a folder, other files are not images.
SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".mpo", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
    | {".dib", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
)
LIST_SUFFIX: Final = ".txt"
MAGIC: Final = frozenset("*?[")
# In a pattern: any folders.
DEEP: Final = "**"


@dataclass(frozen=True, slots=True)
class Found:
    """The images of all INPUTs.

    Attributes:
        images: absolute path by name, in the order of the run.
        boxes: those of an INPUT that is a data set, or None.
    """

    images: dict[str, str]
    boxes: KnownBoxes | None


def find_images(inputs: Iterable[str]) -> Found:
    """Find the images of all INPUTs; each is taken once, and those of one INPUT are sorted by name.

    Args:
        inputs: paths or URLs of folders (with all folders below but hidden ones and results of runs), patterns with
            ``*``, ``?``, ``[`` or ``**``, text files with a path or URL on each line, and images; paths of COCO JSON
            files, and of ``data.yaml`` files of YOLO.

    Raises:
        InvalidRequestError: an INPUT does not exist, cannot be read, has no images, or is a second data set; or two
            images have one name.
    """
    images: dict[str, str] = {}
    boxes: KnownBoxes | None = None
    for text in inputs:
        place = place_of(text)
        given = str(place) if is_url(text) else text
        found, known = _find(place, given)
        if known is not None:
            if boxes is not None:
                raise InvalidRequestError("expected one data set with boxes: run osamd batch once for each")
            boxes = known
        if not found:
            raise InvalidRequestError(f"{given}: no images found")
        for name, path in found.items():
            add_image(images, name, path)
    return Found(images, boxes)


def add_image(images: dict[str, str], name: str, path: str) -> None:
    """Add an image by its name; one may be added twice.

    Raises:
        InvalidRequestError: another image has the name.
    """
    if images.setdefault(name, path) != path:
        raise InvalidRequestError(
            f"{path} and {images[name]} would both be called {name}: rename one, or use their common folder as INPUT"
        )


def _find(place: Place, given: str) -> tuple[dict[str, str], KnownBoxes | None]:
    """The images of an INPUT, and its boxes if it is a data set."""
    try:
        if isinstance(place, UrlPath):
            return _by_url(place), None
        if is_data_set(given):
            known = read_data_set(Path(given))
            return known.images, known
        return _by_name(given), None
    except OSError as error:
        raise InvalidRequestError(f"{error.filename}: {error.strerror}") from None


def _by_name(given: str) -> dict[str, str]:
    path = Path(given)
    if path.is_dir():
        return _named(_walk(given), given)
    if path.exists():
        if path.suffix.lower() == LIST_SUFFIX:
            return _named(_listed(path), str(path.parent))
        return _named([given], str(path.parent))
    if MAGIC & set(given):
        return _named(sorted(found for found in _matches(given) if not Path(found).is_dir()), _fixed_part(given))
    raise InvalidRequestError(f"{given}: no such file or folder")


def _by_url(place: UrlPath) -> dict[str, str]:
    url = str(place)
    if MAGIC & set(url):
        fixed = url[: url.rindex("/", 0, min(url.index(sign) for sign in MAGIC if sign in url))]
        return _named(UrlPath(fixed).matches(url[len(fixed) + 1 :]), fixed)
    if not place.is_file():
        return _named(_photos_below(place), url)
    if Path(place.name).suffix.lower() in {JSON_SUFFIX, *YAML_SUFFIXES}:
        raise InvalidRequestError(f"{url}: expected a data set on this machine, not a URL: download it first")
    if Path(place.name).suffix.lower() == LIST_SUFFIX:
        lines = place.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
        return _named(_below(lines, place.parent), str(place.parent))
    return _named([url], str(place.parent))


def _photos_below(place: UrlPath) -> Iterator[str]:
    """As of folders on disk: no hidden ones, and no results of runs."""
    top = f"{place}/"
    found = place.files()
    results = {url.partition(f"/{STATE}/")[0] + "/" for url in found if f"/{STATE}/" in url} - {top}
    for url in found:
        is_hidden = any(part.startswith(".") for part in url[len(top) :].split("/"))
        if not is_hidden and Path(url).suffix.lower() in SUFFIXES and not url.startswith(tuple(results)):
            yield url


def _walk(folder: str) -> Iterator[str]:
    for parent, files in folders_below(folder):
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield str(Path(parent, name))


def folders_below(top: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below, with the names of their files.

    Left out are hidden folders, which hold caches and version control; results of runs, whose masks are not photos; and
    links to a folder that leads to them, which have no end.
    """

    def fail(error: OSError) -> None:
        raise InvalidRequestError(f"{error.filename}: {error.strerror}")

    # By folder: the real folders that lead to it, and itself.
    trails = {top: frozenset({os.path.realpath(top)})}
    for parent, folders, files in os.walk(top, onerror=fail, followlinks=True):
        trail = trails.pop(parent)
        kept = []
        for name in sorted(folders):
            path = os.path.join(parent, name)  # noqa: PTH118 - as os.walk names it
            real = os.path.realpath(path)
            if not (name.startswith(".") or real in trail or _is_result(path)):
                trails[path] = trail | {real}
                kept.append(name)
        folders[:] = kept
        yield parent, files


def _is_result(folder: str) -> bool:
    """Whether a folder is the result of a run."""
    try:
        return Path(folder, STATE).is_dir()
    except OSError as error:
        raise InvalidRequestError(f"{folder}: {error.strerror}") from None


def _matches(pattern: str) -> Iterator[str]:
    """Files and folders that match; glob's own ``**`` takes forever where links lead back."""
    parts = Path(pattern).parts
    if DEEP not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207 - any root
        return
    at = parts.index(DEEP)
    tail = parts[at + 1 :] or ("*",)
    for top in glob.iglob(str(Path(*parts[:at]))) if at else ["."]:  # noqa: PTH207 - any root
        for folder, _ in folders_below(top):
            yield from _matches(str(Path(glob.escape(folder), *tail)))


def _listed(path: Path) -> Iterator[str]:
    """The paths in a list; relative ones are relative to the list's folder."""
    try:
        lines = path.read_text("utf-8-sig", "surrogateescape").splitlines()
    except OSError as error:
        raise InvalidRequestError(f"{path}: {error.strerror}") from None
    yield from _below(lines, path.parent)


def _below(lines: Iterable[str], folder: Place) -> Iterator[str]:
    """The paths and URLs in a list's lines, as INPUT takes them, with relative paths below its folder."""
    for line in map(str.strip, lines):
        if line:
            yield str(place_of(line) if is_url(line) else folder / line)


def _fixed_part(pattern: str) -> str:
    """The folder before the first wildcard."""
    parts = Path(pattern).parts
    fixed = [part for index, part in enumerate(parts) if not any(MAGIC & set(before) for before in parts[: index + 1])]
    return str(Path(*fixed)) if fixed else "."


def _named(paths: Iterable[str], base: str) -> dict[str, str]:
    images: dict[str, str] = {}
    for path in paths:
        absolute = path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links
        add_image(images, name_of(path, base), absolute)
    return dict(sorted(images.items()))


def name_of(path: str, base: str) -> str:
    """A path or URL relative to a folder, with slashes; without leading slash or scheme if it is outside.

    Never leaves the folder in which it is used as a name, and is always valid UTF-8.
    """
    if is_url(path):
        key = path.removeprefix(f"{base}/") if path.startswith(f"{base}/") else UrlPath(path).key
        # Keys of a bucket may have any parts.
        return posixpath.normpath(f"/{key}").lstrip("/").encode("utf-8", "backslashreplace").decode()
    relative = os.path.relpath(path, base)
    if relative.startswith(os.pardir):
        relative = os.path.abspath(path).lstrip("/")  # noqa: PTH100 - keeps symbolic links
    return Path(relative).as_posix().encode("utf-8", "backslashreplace").decode()
