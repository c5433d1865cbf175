"""Commands for models: list, show, pull, rm, ps."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from osamd.cli import printing
from osamd.client import Client
from osamd.errors import ModelUnavailableError, UnreachableError
from osamd.events import PullProgress
from osamd.library.catalog import ROLES, Model
from osamd.library.library import Library, open_library
from osamd.library.rows import shown_url
from osamd.library.store import Store
from osamd.runtime.graphs import forget_graphs
from osamd.settings import load_settings

BAR_WIDTH = 30
ID_CHARS = 12
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


def run_list(arguments: argparse.Namespace) -> int:
    """``osamd list``."""
    print(list_models(show_all=arguments.all))
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """``osamd show``."""
    print(show_model(arguments.model))
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """``osamd pull``."""
    pull_model(arguments.model)
    return 0


def run_rm(arguments: argparse.Namespace) -> int:
    """``osamd rm``."""
    remove_model(arguments.model)
    return 0


def run_ps(arguments: argparse.Namespace) -> int:
    """``osamd ps``."""
    key = load_settings().api_key
    print(running_models(arguments.url, key.get_secret_value() if key is not None else None))
    return 0


def own_library() -> Library:
    """Open the library of the user's settings; problems in their catalogue are printed to stderr."""
    library = open_library(load_settings())
    for problem in library.catalog.problems:
        print(f"osamd: {problem}", file=sys.stderr)
    return library


def list_models(*, show_all: bool) -> str:
    """A table of the models on this machine, or of all known models."""
    library = own_library()
    store = library.store
    rows = [("NAME", "ID", "SIZE", "MODIFIED")]
    for model in library.catalog:
        size, modified = store.size(model), store.modified(model)
        if size is not None and modified is not None:
            rows.append((model.name, model.digest[:ID_CHARS], printing.size(size), human_age(modified)))
        elif show_all:
            rows.append((model.name, model.digest[:ID_CHARS], "<not pulled>", "<not pulled>"))
    return printing.table(rows)


def show_model(name: str) -> str:
    """The details of a model."""
    library = own_library()
    model = library.resolve(name)
    size = library.store.size(model)
    rows = [
        ("name", model.name),
        ("aliases", ", ".join(model.aliases) or "none"),
        ("family", model.family),
        ("takes", model.capabilities.sentence()),
        ("licence", terms(model)),
        ("source", model.source_url or "unknown"),
        *((role, f"{part.name}, licence {terms(part)}") for role, part in zip(ROLES, model.parts, strict=False)),
        ("here", "no" if size is None else printing.size(size)),
    ]
    rows += [(role, f"sha256:{blob.sha256} {shown_url(blob.url)}") for role, blob in model.blobs.items()]
    return printing.table(rows)


def pull_model(name: str) -> None:
    """Pull a model, showing its licence first and, in a terminal, a progress bar.

    Raises:
        UnknownModelError: no such model.
        ModelError: the pull failed.
    """
    library = own_library()
    bring(library.resolve(name), library.store)


def bring(model: Model, store: Store) -> None:
    """Pull a model, given its row."""
    for member in model.members:
        print(f"osamd: {member.name} has the licence {terms(member)}", file=sys.stderr)
    bar = _Bar() if sys.stderr.isatty() else None
    store.pull(model, bar.show if bar is not None else _tell_ends())
    if bar is not None:
        bar.end()
    print(f"osamd: pulled {model.name}", file=sys.stderr)


def bring_absent(model: Model, library: Library) -> None:
    """Pull a model that is not here, if that is allowed, and say so.

    Raises:
        ModelError: it cannot be pulled.
    """
    if load_settings().pull == "auto" and not library.store.is_present(model):
        bring(model, library.store)


def remove_model(name: str) -> None:
    """Delete a model's files.

    Raises:
        ModelUnavailableError: it is not on this machine.
        InvalidRequestError: its files are not in the cache.
    """
    library = own_library()
    model = library.resolve(name)
    was_here = library.store.is_present(model)
    freed = library.store.remove(model, catalog=library.catalog)
    forget_graphs(load_settings().cache, library.store.places(model))
    if not (was_here or freed):
        raise ModelUnavailableError(f"{model.name} is not on this machine")
    print(f"osamd: removed {model.name}, {printing.size(freed)} freed", file=sys.stderr)


def running_models(url: str, api_key: str | None) -> str:
    """A table of the models a server has loaded.

    Raises:
        UnreachableError: no server answered.
        AccessError: the key is missing or wrong.
    """
    with Client(url, api_key=api_key, patience_s=0) as client:
        running: list[dict[str, Any]] = client.running_models()
    rows = [("NAME", "SIZE", "DEVICE", "UNTIL")]
    try:
        rows += [
            (item["name"], printing.size(item["size"]), item["device"], item["expires_at"] or "-") for item in running
        ]
    except (KeyError, TypeError):
        # Such as Ollama, which has the same routes.
        raise UnreachableError("unexpected answer: is this an osamd server?") from None
    return printing.table(rows)


def terms(model: Model) -> str:
    """A licence and the URL of its text."""
    return f"{model.license or 'unknown'} {model.license_url}".strip()


def human_age(when: datetime) -> str:
    """A relative time such as ``3 hours ago``."""
    seconds = max(0, int((datetime.now(UTC) - when).total_seconds()))
    for unit, length in (("day", DAY_S), ("hour", HOUR_S), ("minute", MINUTE_S)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


class _Bar:
    """A progress bar on stderr, one line per file."""

    def __init__(self) -> None:
        self._file = ""

    def show(self, progress: PullProgress) -> None:
        if self._file not in {"", progress.digest}:
            self.end()
        self._file = progress.digest
        done = progress.completed / progress.total if progress.total else 0.0
        bar = ("#" * int(done * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
        total = printing.size(progress.total) if progress.total else "?"
        line = f"{progress.role:<16} [{bar}] {printing.size(progress.completed)} of {total}  {progress.status}"
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()

    def end(self) -> None:
        if self._file:
            sys.stderr.write("\n")
            self._file = ""


def _tell_ends() -> Callable[[PullProgress], None]:
    """Without a terminal, one line for each finished file."""

    def tell(progress: PullProgress) -> None:
        if progress.status == "done":
            print(f"osamd: {progress.role} {printing.size(progress.completed)}", file=sys.stderr)

    return tell
