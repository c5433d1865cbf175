"""``osamd batch``: whole folders and data sets into masks."""

import argparse
import contextlib
import functools
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from osamd.cli.models import bring_absent, own_library
from osamd.client import Client
from osamd.dataset.answers import Answers, RemoteAnswers
from osamd.dataset.failures import NAME as FAILURES
from osamd.dataset.formats import NAMES, open_formats
from osamd.dataset.local import Machine, checked_model, local_answers
from osamd.dataset.manifest import NAME as MANIFEST
from osamd.dataset.manifest import Manifest
from osamd.dataset.plan import STATE, Header
from osamd.dataset.planning import Plan, Prompts, make_plan, repeated
from osamd.dataset.retrying import forget_failed
from osamd.dataset.run import Outcome, is_segmented, open_manifest
from osamd.dataset.run import run as run_manifest
from osamd.dataset.server_check import check_server
from osamd.dataset.urls import Place, UrlPath, is_url, place_of
from osamd.dataset.work import InProcess, Part, Workers
from osamd.engine.everything import check_everything
from osamd.engine.prompts import check_capabilities, check_masks
from osamd.errors import AccessError, InvalidRequestError, OsamdError, RequestError, with_field
from osamd.library.catalog import DEFAULT_MODEL, Model
from osamd.library.rows import shown_url
from osamd.plurals import counted
from osamd.settings import load_settings
from osamd.types import Prompt

KEY: Final = "OSAMD_API_KEY"
RETRY: Final = "--retry-failed"
SHARD_SIZE: Final = 200
# Photos in hand: as many as Segmenter works on; few enough for a server's limits.
AT_ONCE, AT_ONCE_REMOTE = 8, 4
# A server that restarts or is busy is waited for this long.
PATIENCE_S: Final = 600.0
FAILED: Final = 1
# As shells report a process that ended by a signal.
SIGNALLED: Final = 128
NO_INPUT: Final = ("everything", "text", "boxes_from", "points_from", "model", "shard_size")


def run(arguments: argparse.Namespace) -> int:
    """Segment what is left, and write the outputs."""
    # Here and not by argparse, whose errors are not OsamdErrors.
    out = arguments.out = place_of(arguments.out)
    part = _part(arguments.part)
    names = [*formats_of(arguments.format or ["coco"]), *(["review"] if arguments.review else [])]
    _check_place(arguments)
    plan = _plan(arguments)
    has_retried = False
    try:
        is_retry = arguments.retry_failed and (out / STATE / MANIFEST).exists()
        # A run that begins has nothing to try again.
        has_retried = not is_retry
        if arguments.url and (is_retry or not is_segmented(out)):
            _check_server(arguments, plan.header if plan else open_manifest(out, None).header)
        with _stop_on_signals() as stopped:
            manifest = open_manifest(out, plan)
            header = manifest.header
            formats = open_formats(names, out, header, manifest.all_items())
            workers = _workers(arguments, header)
            if is_retry:
                # Last, so that a command that is refused leaves a finished run as it is.
                if not arguments.url:
                    checked_model(header, own_library())
                _tell(f"{counted(forget_failed(out, manifest, part), 'failed photo')} to try again")
                has_retried = True
            outcome = run_manifest(
                manifest,
                out,
                formats=formats,
                workers=workers,
                stop=stopped.event,
                part=part,
            )
    except OSError as error:
        # Such as a full disk.
        where = f"{error.filename}: " if error.filename else ""
        print(f"osamd: {where}{error.strerror or error}", file=sys.stderr)
        if _has_begun(out):
            _tell_how_to_continue(has_retried=has_retried)
        return FAILED
    except OsamdError as error:
        print(f"osamd: {with_field(str(error), error.field)}", file=sys.stderr)
        # The same command would be refused again.
        if _has_begun(out) and not isinstance(error, RequestError):
            _tell_how_to_continue(has_retried=has_retried)
        return error.exit_code
    return _tell_end(outcome, manifest, out, stopped.number, has_retried=has_retried)


def _check_place(arguments: argparse.Namespace) -> None:
    if arguments.workers and not arguments.on:
        raise InvalidRequestError("--workers needs --on ray")
    if arguments.on:
        from osamd.cluster.batch_ray import check_address

        if arguments.url:
            raise InvalidRequestError("--on and --url cannot be combined: give one of them")
        check_address(arguments.on)


def _part(text: str | None) -> Part:
    if text is None:
        return Part()
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if found is None or not int(found[1]) < int(found[2]):
        raise InvalidRequestError(f"--part {text}: expected I/N with I from 0 to N - 1, such as 0/4")
    return Part(int(found[1]), int(found[2]))


def formats_of(given: Sequence[str]) -> list[str]:
    """The names in ``--format``, once each.

    Raises:
        InvalidRequestError: one is unknown, or there is none.
    """
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise InvalidRequestError(f"--format {','.join(unknown)}: expected one or more of {', '.join(NAMES)}")
    return list(dict.fromkeys(names))


def _here(flag: str, given: str | None) -> str | None:
    """A file on this machine; ``file://`` is one."""
    if given is None or not is_url(given):
        return given
    place = place_of(given)
    if isinstance(place, UrlPath):
        raise InvalidRequestError(f"{flag}: expected a file on this machine, not a URL: download it first")
    return str(place)


def _plan(arguments: argparse.Namespace) -> Plan | None:
    if not arguments.input:
        given = [name for name in NO_INPUT if getattr(arguments, name)]
        if given:
            raise InvalidRequestError(f"--{given[0].replace('_', '-')} needs INPUT: name photos or folders")
        return None
    boxes_from = _here("--boxes-from", arguments.boxes_from)
    points_from = _here("--points-from", arguments.points_from)
    texts = tuple(text.strip() for text in (arguments.text or "").split(",") if text.strip())
    if arguments.text is not None and not texts:
        raise InvalidRequestError("--text: expected words, such as cat,dog")
    if twice := repeated(texts):
        raise InvalidRequestError(f"--text: {twice[0]} is given more than once")
    prompts = Prompts(boxes_from, points_from, texts, arguments.everything)
    model, digest = arguments.model or DEFAULT_MODEL, ""
    if not arguments.url:
        row = own_library().resolve(model)
        model, digest = row.name, row.digest
    plan = make_plan(
        arguments.input, prompts, model=model, digest=digest, shard_size=arguments.shard_size or SHARD_SIZE
    )
    if plan.unused:
        print(f"osamd: not in INPUT: {counted(plan.unused, 'image')} of the data set", file=sys.stderr)
    if not arguments.url:
        _check_model(row, plan.header)
    return plan


def _check_model(row: Model, header: Header) -> None:
    """Refuse a model that does not take such prompts, before it is pulled."""
    import numpy as np

    prompt = {
        "text": Prompt(texts=header.texts),
        "boxes": Prompt(boxes=np.zeros((1, 4), np.float32)),
        "points": Prompt(points=np.zeros((1, 2), np.float32)),
        "everything": Prompt(),
    }[header.ask]
    check_capabilities((prompt,), row.capabilities, model=row.name)
    check_masks(row.capabilities, model=row.name)
    if header.ask == "everything":
        check_everything(row.capabilities, model=row.name)


def _check_server(arguments: argparse.Namespace, header: Header) -> None:
    """Refuse a server that cannot do the run, before anything is written."""
    try:
        check_server(arguments.url, key=os.environ.get(KEY), model=header.model, ask=header.ask, tell=_tell)
    except AccessError as error:
        raise type(error)(f"{error}: set {KEY} to a key of {shown_url(arguments.url)}") from None


def _workers(arguments: argparse.Namespace, header: Header) -> Workers:
    # Everything in a photo takes seconds, for which an interrupted run should not wait many times over.
    at_once = AT_ONCE_REMOTE if arguments.url or header.ask == "everything" else AT_ONCE
    if arguments.url:
        return InProcess(functools.partial(_remote, header, arguments), at_once=at_once)
    machine = Machine(arguments.device, arguments.threads or load_settings().threads or None)
    if arguments.on:
        from osamd.cluster.batch_actors import OnRay

        return OnRay(
            arguments.on,
            arguments.out,
            count=arguments.workers,
            machine=machine,
            at_once=at_once,
            tell=_tell,
            prepare=functools.partial(_prepare, header),
        )
    return InProcess(functools.partial(local_answers, header, machine, prepare=bring_absent), at_once=at_once)


def _prepare(header: Header) -> None:
    library = own_library()
    bring_absent(checked_model(header, library), library)


def _tell(text: str) -> None:
    print(f"osamd: {text}", file=sys.stderr)


@contextlib.contextmanager
def _remote(header: Header, arguments: argparse.Namespace) -> Iterator[Answers]:
    with Client(arguments.url, api_key=os.environ.get(KEY), patience_s=PATIENCE_S) as client:
        yield RemoteAnswers(client, header.model)


class _Stopped:
    """Whether a signal has asked the run to stop, and which."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        self.number = number
        self.event.set()
        # The next one ends the process at once, which loses no more than the photos in hand.
        signal.signal(number, signal.SIG_DFL)
        # Not print, which a signal handler must not call while the program prints.
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), b"\nosamd: finishing the photos in hand; again to stop at once\n")


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stopped]:
    stopped = _Stopped()
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_end(outcome: Outcome, manifest: Manifest, out: Place, number: int, *, has_retried: bool) -> int:
    header = manifest.header
    if outcome.is_finished:
        print(f"osamd: {counted(header.count, 'photo')}, {outcome.failed:,} failed; results in {out}", file=sys.stderr)
        if outcome.failed:
            print(
                f"osamd: {out / FAILURES} says which failed, and why; --retry-failed tries them again", file=sys.stderr
            )
        return FAILED if outcome.failed else 0
    print(f"osamd: {outcome.done:,} of {counted(header.count, 'photo')} done", file=sys.stderr)
    if number:
        _tell_how_to_continue(has_retried=has_retried)
        return SIGNALLED + number
    print("osamd: other parts are not done; the process that finishes the last one writes the results", file=sys.stderr)
    return 0


def _has_begun(out: Place) -> bool:
    try:
        return (out / STATE).is_dir()
    # Such as a name that is too long, about which the command has ended.
    except OSError:
        return False


def _tell_how_to_continue(*, has_retried: bool) -> None:
    # What was tried again is not to be tried once more.
    words = [word for word in sys.argv[1:] if not (has_retried and word == RETRY)]
    command = shlex.join(["osamd", *words])
    print(f"osamd: to continue where it stopped: {command}", file=sys.stderr)
