"""The command line. Thin: each command imports what it needs when it runs, so that ``--help`` is instant.

Data goes to stdout, messages to stderr, exit codes come from the error tree.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from osamd import __version__
from osamd.errors import InvalidImageError, InvalidRequestError, OsamdError, SettingsError, with_field

if TYPE_CHECKING:
    from osamd.settings import Settings
    from osamd.types import SegmentResult
    from osamd.wire.schemas import GenerateBody

INTERRUPTED = 130
# More clients or requests than this, or longer, is a load test, for which there are better tools.
MOST, LONGEST_S = 1000, 3600


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except OsamdError as error:
        print(f"osamd: {with_field(str(error), error.field)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; that is its business. Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="osamd", description="Clicks, boxes and words into masks.")
    parser.add_argument("--version", action="version", version=f"osamd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_run(commands)
    _add_library(commands)
    _add_keys(commands)
    _add_doctor(commands)
    _add_bench(commands)
    return parser


Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _add_serve(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the HTTP API",
        description="Serve the HTTP API. Flags win over OSAMD_* environment variables; see docs/reference/settings.md.",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (11368)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="a .env file to read below the environment")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where model blobs live (~/.cache/osam)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where models run (auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one inference (0: one per core)")
    parser.add_argument("--preload", metavar="MODEL,...", help="models to load at start (builtin)")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="folder below which image_path may name files")
    parser.add_argument("--mask-layout", choices=("full", "crop"), help="default mask_layout (full)")
    parser.add_argument("--docs", choices=("on", "off"), help="serve /docs, /openapi.json and /playground (on)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="what is logged (info)")
    parser.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from osamd.server.startup import faster_imports  # noqa: PLC0415

    flags = {name: value for name, value in vars(arguments).items() if name not in {"command", "env_file"}}
    if arguments.env_file is not None and not arguments.env_file.is_file():
        raise SettingsError(f"--env-file: {arguments.env_file} is not a file")
    with faster_imports():
        from osamd.settings import load_settings  # noqa: PLC0415

        settings = load_settings(env_file=arguments.env_file, **flags)

        from osamd.server.app import create_app  # noqa: PLC0415
        from osamd.server.process import prepare_process, serve  # noqa: PLC0415

        prepare_process(settings)
        app = create_app(settings)
    serve(app, settings)
    return 0


def _add_run(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="segment one photo, without a server",
        description="Segment one photo. Without -o, PNG bytes go to stdout: the mask, or with --overlay (and, as in"
        " osam, with --prompt) the photo with the mask over it.",
    )
    parser.add_argument("model", nargs="?", help="a model's name (builtin)")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE", help="the photo")
    parser.add_argument("--point", action="append", default=[], metavar="X,Y", help="a click on the object; repeatable")
    parser.add_argument(
        "--background", action="append", default=[], metavar="X,Y", help="a click beside the object; repeatable"
    )
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="a box around the object")
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="words, for models that take them")
    parser.add_argument("--prompt", metavar="JSON", help="a prompt as on the wire")
    parser.add_argument("--multimask", action="store_true", help="up to three candidates")
    parser.add_argument("--json", action="store_true", help="write the reply as JSON to stdout")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the PNG there")
    parser.add_argument("--overlay", action="store_true", help="the photo with the mask over it instead of the mask")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from osamd.settings import load_settings  # noqa: PLC0415
    from osamd.wire.parsing import body_from_pairs  # noqa: PLC0415
    from osamd.wire.replies import generate_reply, union_png  # noqa: PLC0415

    settings = load_settings()
    pairs = [("point", point) for point in arguments.point]
    pairs += [("background", point) for point in arguments.background]
    pairs += [("text", text) for text in arguments.text]
    pairs += [(name, getattr(arguments, name)) for name in ("model", "box", "prompt") if getattr(arguments, name)]
    body = body_from_pairs([*pairs, ("multimask", str(arguments.multimask))])
    try:
        data = arguments.image.read_bytes()
    except OSError as error:
        raise InvalidImageError(f"{arguments.image}: {error.strerror}") from None
    if not arguments.json and arguments.output is None and sys.stdout.isatty():
        raise InvalidRequestError("this would write a PNG to the terminal: redirect it, or give -o or --json")

    result = _segment(data, body, settings)
    if arguments.json:
        print(generate_reply(result, body, settings, threading.Event()).model_dump_json())
    if arguments.output is not None or not arguments.json:
        wants_overlay = arguments.overlay or (arguments.output is None and arguments.prompt is not None)
        png = _overlay_png(data, result, settings) if wants_overlay else union_png(result)
        _write(png, arguments.output)
    if not result.annotations:
        print("osamd: nothing was found", file=sys.stderr)
    return 0


def _segment(data: bytes, body: "GenerateBody", settings: "Settings") -> "SegmentResult":
    import asyncio  # noqa: PLC0415

    from osamd.cli.models import bring, own_library  # noqa: PLC0415
    from osamd.engine import Engine  # noqa: PLC0415
    from osamd.timings import Timings  # noqa: PLC0415
    from osamd.types import ImageSource, SegmentRequest  # noqa: PLC0415
    from osamd.wire.replies import included  # noqa: PLC0415

    request = SegmentRequest(
        image=ImageSource.of_bytes(data),
        model=body.model,
        prompts=body.to_prompts(settings),
        multimask=bool(body.multimask),
        owner="cli",
        with_embedding=bool(included(body, settings)),
    )

    library = own_library()
    model = library.resolve(body.model)
    if not library.store.is_present(model) and settings.pull == "auto":
        bring(model, library.store)

    async def segment() -> "SegmentResult":
        engine = Engine(settings, library=library)
        try:
            return await engine.segment(request, Timings())
        finally:
            await engine.close()

    return asyncio.run(segment())


def _overlay_png(data: bytes, result: "SegmentResult", settings: "Settings") -> bytes:
    from osamd.pixels.images import decode_image  # noqa: PLC0415
    from osamd.pixels.masks import encode_color_png, overlay  # noqa: PLC0415

    pixels = decode_image(data, max_pixels=settings.max_image_pixels).pixels
    return encode_color_png(overlay(pixels, [item.mask for item in result.annotations if item.mask is not None]))


def _write(data: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise InvalidRequestError(f"{output}: {error.strerror}") from None
    print(f"osamd: wrote {output}", file=sys.stderr)


def _add_library(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("list", help="list the models that are here", description="List models.")
    parser.add_argument("-a", "--all", action="store_true", help="also those that are not pulled")
    parser.set_defaults(command=_list)
    for name, command, text in (
        ("show", _show, "Say all there is to say about a model."),
        ("pull", _pull, "Pull a model, showing its licence first."),
        ("rm", _rm, "Delete a model's files."),
    ):
        parser = commands.add_parser(name, help=text[0].lower() + text[1:-1], description=text)
        parser.add_argument("model", help="a name or alias")
        parser.set_defaults(command=command)
    parser = commands.add_parser(
        "ps",
        help="list the models a server has loaded",
        description="List the models a server has loaded. The key is read from API_KEY.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:11368", help="the server (http://127.0.0.1:11368)")
    parser.set_defaults(command=_ps)


def _list(arguments: argparse.Namespace) -> int:
    from osamd.cli.models import list_models  # noqa: PLC0415

    print(list_models(show_all=arguments.all))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from osamd.cli.models import show_model  # noqa: PLC0415

    print(show_model(arguments.model))
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from osamd.cli.models import pull_model  # noqa: PLC0415

    pull_model(arguments.model)
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    from osamd.cli.models import remove_model  # noqa: PLC0415

    remove_model(arguments.model)
    return 0


def _ps(arguments: argparse.Namespace) -> int:
    from osamd.cli.models import running_models  # noqa: PLC0415
    from osamd.settings import load_settings  # noqa: PLC0415

    key = load_settings().api_key
    print(running_models(arguments.url, key.get_secret_value() if key is not None else None))
    return 0


def _add_keys(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "keys",
        help="make, list and revoke keys",
        description="Make, list and revoke keys; list and revoke work on API_KEY_FILE, which a server reads again by"
        " itself. `new` writes the line for that file to stdout, and the secret, once, to stderr.",
    )
    parser.add_argument("action", choices=("new", "list", "revoke"), help="what to do")
    parser.add_argument("name", nargs="?", help="the key's name")
    parser.add_argument("--role", choices=("user", "admin"), default="user", help="what a new key may do (user)")
    parser.set_defaults(command=_keys)


def _keys(arguments: argparse.Namespace) -> int:
    from osamd.server.guard.keys import new_key, read_keys, revoke  # noqa: PLC0415
    from osamd.settings import load_settings  # noqa: PLC0415

    if (arguments.name is None) != (arguments.action == "list"):
        raise InvalidRequestError(f"keys {arguments.action} takes {'no' if arguments.name else 'a'} name")
    if arguments.action == "new":
        key = new_key(arguments.name, arguments.role)
        print(f"osamd: the secret, shown this once: {key.secret}", file=sys.stderr)
        print(key.line)
        return 0
    path = load_settings().api_key_file
    if path is None:
        raise SettingsError("API_KEY_FILE is not set")
    if arguments.action == "list":
        print(
            "\n".join(
                sorted({f"{caller.name} {caller.role}" for caller in read_keys(path, may_be_guessable=True).values()})
            )
        )
        return 0
    count = revoke(path, arguments.name)
    print(f"osamd: {count or 'no'} {'key' if count == 1 else 'keys'} of that name removed", file=sys.stderr)
    return 0 if count else InvalidRequestError.exit_code


def _add_doctor(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what this installation has and where models would run",
        description="Say what this installation has and where models would run; exits 1 when something is wrong."
        " On a GPU it runs a graph there and on the CPU, and shows which nodes ran where and how long it took.",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where models are to run (OSAMD_DEVICE)")
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from osamd.cli.doctor import examine  # noqa: PLC0415

    report = examine(arguments.device)
    print(report.text())
    return report.exit_code


def _add_bench(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure a deployment",
        description="Measure how fast a server answers, as its users see it: the first answer (let the host fall asleep"
        " before, and that is the cold start), new images, clicks, and clicks of several clients at once. The prompt is"
        " the model's default: one click in the middle for most. The key is read from API_KEY.",
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:11368", help="the server (http://127.0.0.1:11368)")
    parser.add_argument("--model", help="a model's name (builtin)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photo, sent as JPEG (an example of 1920 x 1280)")
    parser.add_argument("--requests", type=_count, default=20, metavar="N", help="clicks of each kind (20)")
    parser.add_argument("--clients", type=_count, default=4, metavar="N", help="clients at once, at the end (4)")
    parser.add_argument("--seconds", type=_seconds, default=10.0, metavar="S", help="how long they click (10)")
    parser.add_argument(
        "--patience", type=_seconds, default=120.0, metavar="S", help="how long a sleeping host may take to wake (120)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture there, as SVG")
    parser.set_defaults(command=_bench)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number above 0, and at most {LONGEST_S}")
    return value


def _bench(arguments: argparse.Namespace) -> int:
    import json  # noqa: PLC0415

    from osamd.cli.bench.chart import svg  # noqa: PLC0415
    from osamd.cli.bench.phases import Plan, measure  # noqa: PLC0415
    from osamd.cli.bench.progress import Progress  # noqa: PLC0415
    from osamd.cli.bench.report import text  # noqa: PLC0415
    from osamd.settings import load_settings  # noqa: PLC0415

    key = load_settings().api_key
    plan = Plan(
        url=arguments.url,
        api_key=key.get_secret_value() if key is not None else None,
        model=arguments.model,
        image=arguments.image,
        requests=arguments.requests,
        clients=arguments.clients,
        seconds=arguments.seconds,
        patience_s=arguments.patience,
    )
    result = measure(plan, Progress())
    print(text(result))
    if arguments.json is not None:
        _write(json.dumps(result.as_json(), indent=1).encode(), arguments.json)
    if arguments.plot is not None:
        _write(svg(result).encode(), arguments.plot)
    return 0
