"""The command line's parser and the module of each command.

A command's module is imported when the command runs, so that ``--help`` is fast. Data goes to stdout, messages to
stderr, and exit codes come from the error classes.
"""

import argparse
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from osamd import __version__
from osamd.errors import OsamdError, with_field

INTERRUPTED = 130
MODELS = "osamd.cli.models"
# Beyond this it is a load test, for which there are better tools.
MOST, LONGEST_S = 1000, 3600
# A command whose name has two words.
WITH_A_SPACE = ("batch", "export")
# Coordinates that begin with a minus, which argparse takes for a flag.
NEGATIVE_NUMBERS = re.compile(r"-[0-9.][0-9.,eE+-]*")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    # A stream closed by the shell is None in Python; discard what is written to it.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
    # Names of models and licences may have characters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed the pipe; not an error.
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        _discard_output()
        print(f"osamd: standard output: {error.strerror}", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Replace stdout, because Python would report an error when it flushes the rest at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(_joined(argv))
    module, function = arguments.command
    try:
        code: int = getattr(importlib.import_module(module), function)(arguments)
    except OsamdError as error:
        print(f"osamd: {with_field(str(error), error.field)}", file=sys.stderr)
        return error.exit_code
    return code


def _joined(argv: Sequence[str]) -> list[str]:
    """Rewrite ``--point -5,3`` to ``--point=-5,3``, and ``batch export`` to the name of its parser."""
    joined: list[str] = []
    for argument in argv:
        if [*joined, argument] == list(WITH_A_SPACE):
            joined = [" ".join(WITH_A_SPACE)]
        elif joined and re.fullmatch("--[a-z-]+", joined[-1]) and NEGATIVE_NUMBERS.fullmatch(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="osamd", description="Clicks, boxes and words into masks.")
    parser.add_argument("--version", action="version", version=f"osamd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_cluster(commands)
    _add_run(commands)
    _add_batch(commands)
    _add_library(commands)
    _add_keys(commands)
    _add_doctor(commands)
    _add_bench(commands)
    _add_labelme(commands)
    return parser


Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _add_serve(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the HTTP API",
        description="Serve the HTTP API. Flags override OSAMD_* environment variables; see docs/reference/settings.md.",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (11368)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="a .env file; environment variables override it")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where model files are stored (~/.cache/osam)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where models run (auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one inference (0: one per core)")
    parser.add_argument("--preload", metavar="MODEL,...", help="models to load at start (builtin)")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="folder from which image_path may be read")
    parser.add_argument("--mask-layout", choices=("full", "crop"), help="default mask_layout (full)")
    parser.add_argument("--docs", choices=("on", "off"), help="serve /docs, /openapi.json and /playground (on)")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="lowest level that is logged (info)"
    )
    parser.set_defaults(command=("osamd.cli.serve", "run"))


def _add_cluster(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "cluster",
        help="serve with many Segmenters behind edges, on Ray Serve",
        description="up serves on this machine, on loopback alone, until it is stopped: edges speak HTTP, Segmenters"
        " hold models and embeddings. config prints Ray Serve's configuration for a real cluster."
        " Needs osamd[cluster].",
    )
    parser.add_argument("action", choices=("up", "config"), help="what to do")
    parser.add_argument(
        "--segmenters", type=_count, metavar="N", help="Segmenters of each model (up: 2; config: from 0 to 64 by load)"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="a model with Segmenters of its own; repeatable, the first is the default (builtin)",
    )
    parser.add_argument("--port", type=int, metavar="P", help="port to listen on (up: 11368, config: 8000)")
    parser.add_argument(
        "--gpus", type=float, default=0.0, metavar="G", help="GPUs of a Segmenter, such as 0.5 (0: CPU)"
    )
    parser.set_defaults(command=("osamd.cli.cluster", "run"))


def _add_run(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="segment one photo, without a server",
        description="Segment one photo. Without -o, PNG bytes go to stdout: the mask, or with --overlay (and, like"
        " osam, with --prompt) the photo with the mask over it; of everything, a map of labels.",
    )
    parser.add_argument("model", nargs="?", help="a model's name, or DETECTOR+SEGMENTER for words to masks (builtin)")
    parser.add_argument("--image", required=True, metavar="FILE", help="the photo; - reads standard input")
    parser.add_argument("--point", action="append", default=[], metavar="X,Y", help="a click on the object; repeatable")
    parser.add_argument(
        "--background", action="append", default=[], metavar="X,Y", help="a click outside the object; repeatable"
    )
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="a box around the object")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="WORDS",
        help="what to find, for models that take text; repeatable",
    )
    parser.add_argument(
        "--mask-input",
        metavar="MASK",
        help="a mask to refine: a greyscale PNG of the photo's size, white on the object",
    )
    parser.add_argument(
        "--everything", action="store_true", help="find everything; parameters: --prompt '{\"everything\": {...}}'"
    )
    parser.add_argument("--prompt", metavar="JSON", help="a prompt as in the HTTP API")
    parser.add_argument("--multimask", action="store_true", help="up to three candidate masks")
    parser.add_argument("--json", action="store_true", help="write the reply as JSON to stdout")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the PNG to FILE; - writes to standard output")
    parser.add_argument(
        "--overlay", action="store_true", help="write the photo with the mask over it instead of the mask"
    )
    parser.add_argument(
        "--cutout", action="store_true", help="write the object on a transparent background instead of the mask"
    )
    parser.add_argument("--fill-holes", metavar="N", help="fill holes of at most N pixels")
    parser.add_argument(
        "--drop-islands", metavar="N", help="drop separate parts of at most N pixels; the largest is kept"
    )
    parser.add_argument("--smooth", metavar="R", help="smooth outlines with a Gaussian blur of R pixels, at most 50")
    parser.add_argument("--mask-format", choices=("png", "rle", "polygon", "none"), help="masks in the JSON (png)")
    parser.add_argument(
        "--simplify", metavar="T", help="with --mask-format polygon: simplify outlines, off by at most T pixels"
    )
    parser.set_defaults(command=("osamd.cli.run", "run"))


def _add_batch(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "batch",
        allow_abbrev=False,
        help="segment whole folders and data sets",
        description="Segment many photos into a data set. A run that was interrupted continues when the same command is"
        " given again, or osamd batch --out DIR; so does one that is finished, with another --format, without"
        " segmenting again. Photos that fail are listed in DIR/failures.csv, and the exit code is then 1.",
    )
    parser.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help="folders, patterns such as 'photos/**/*.jpg', lists of files (.txt), images, or a data set whose boxes are"
        " the prompts: COCO JSON, or data.yaml of YOLO. With osamd[urls], photos also by URL: s3:// or gs://",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder for the results; a path or a URL")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--everything", action="store_true", help="find all objects")
    prompts.add_argument("--text", metavar="WORDS,...", help="what to find, such as cat,dog; for models that take text")
    prompts.add_argument(
        "--boxes-from", metavar="FILE", help="boxes to turn into masks: COCO JSON, data.yaml or a folder of YOLO labels"
    )
    prompts.add_argument("--points-from", metavar="FILE", help="clicks: CSV with image, x, y, and see the guide")
    parser.add_argument("--model", help="a model's name (builtin)")
    parser.add_argument(
        "--format",
        action="append",
        metavar="NAME,...",
        help="coco, yolo, labelme, png, parquet, or several of them (coco)",
    )
    parser.add_argument("--review", action="store_true", help="also write review/index.html: pictures, worst first")
    parser.add_argument("--url", help="segment on a server; its key is read from OSAMD_API_KEY")
    parser.add_argument(
        "--on",
        metavar="RAY",
        help="segment on Ray workers: ray starts Ray on this machine, or uses the cluster in RAY_ADDRESS;"
        " ray://host:10001 is a cluster's client port. All machines need DIR and the photos at the same path",
    )
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="with --on: workers, each with the model (one per GPU or 4 cores)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where the model runs (auto)")
    parser.add_argument("--threads", type=_count, metavar="N", help="cores to use; with --on, of each worker (all)")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try again the photos that failed in earlier runs, and those behind them in their shards",
    )
    parser.add_argument("--shard-size", type=_count, metavar="N", help="photos per shard, the unit of work (200)")
    parser.add_argument(
        "--part", metavar="I/N", help="do only part I, from 0, of N: for several machines that share DIR"
    )
    parser.set_defaults(command=("osamd.cli.batch", "run"))
    parser = commands.add_parser(
        " ".join(WITH_A_SPACE),
        help="write other formats of a finished batch run",
        description="Write other formats of a finished run of osamd batch, from its state or, where that is gone, from"
        " its Parquet files, with the bytes that the run itself would have written. Needs neither the photos nor the"
        " model. A folder called export is given to osamd batch as ./export.",
    )
    parser.add_argument("out", metavar="DIR", help="the folder with the results")
    parser.add_argument(
        "--format",
        action="append",
        required=True,
        metavar="NAME,...",
        help="coco, yolo, labelme, png, parquet, or several of them",
    )
    parser.set_defaults(command=("osamd.cli.batch_export", "run"))


def _add_library(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "list", help="list the models on this machine", description="List the models on this machine."
    )
    parser.add_argument("-a", "--all", action="store_true", help="include models that are not pulled")
    parser.set_defaults(command=(MODELS, "run_list"))
    for name, text in (
        ("show", "Show a model's family, prompts, licence and files."),
        ("pull", "Pull a model, showing its licence first."),
        ("rm", "Delete a model's files."),
    ):
        parser = commands.add_parser(name, help=text[0].lower() + text[1:-1], description=text)
        parser.add_argument("model", help="a name or alias")
        parser.set_defaults(command=(MODELS, f"run_{name}"))
    parser = commands.add_parser(
        "ps",
        help="list the models a server has loaded",
        description="List the models a server has loaded. The key is read from API_KEY.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:11368", help="the server (http://127.0.0.1:11368)")
    parser.set_defaults(command=(MODELS, "run_ps"))


def _add_keys(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "keys",
        help="create, list and revoke API keys",
        description="Create, list and revoke API keys. list and revoke use API_KEY_FILE, which a running server reloads"
        " when it changes; new prints a line for that file to stdout and the secret, only once, to stderr.",
    )
    parser.add_argument("action", choices=("new", "list", "revoke"), help="what to do")
    parser.add_argument("name", nargs="?", help="the key's name")
    parser.add_argument("--role", choices=("user", "admin"), default="user", help="what a new key may do (user)")
    parser.set_defaults(command=("osamd.cli.keys", "run"))


def _add_doctor(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="check this installation and show where models would run",
        description="Check this installation and show where models would run; exits with 1 if there are problems."
        " With a GPU it runs a graph there and on the CPU, and shows where each node ran and how long it took.",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where models should run (OSAMD_DEVICE)")
    parser.set_defaults(command=("osamd.cli.doctor", "run"))


def _add_bench(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure a deployment",
        description="Measure a server's latency as its users see it: the first answer (a cold start if the host"
        " was asleep), new images, clicks, and clicks from concurrent clients. The prompt is the model's default,"
        " one click in the centre for most. The key is read from API_KEY.",
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:11368", help="the server (http://127.0.0.1:11368)")
    parser.add_argument("--model", help="a model's name (builtin)")
    parser.add_argument(
        "--image", metavar="FILE", help="a photo, sent as JPEG; - reads standard input (an example of 1920 x 1280)"
    )
    parser.add_argument("--requests", type=_count, default=20, metavar="N", help="clicks in each phase (20)")
    parser.add_argument(
        "--clients", type=_count, default=4, metavar="N", help="concurrent clients in the last phase (4)"
    )
    parser.add_argument("--seconds", type=_seconds, default=10.0, metavar="S", help="length of the last phase (10)")
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="how long to wait for a sleeping host to wake up (120)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all measurements to FILE; - writes to standard output")
    parser.add_argument("--plot", metavar="FILE", help="write a chart as SVG to FILE; - writes to standard output")
    parser.set_defaults(command=("osamd.cli.bench.command", "run"))


def _add_labelme(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "labelme",
        help="run labelme with its AI models on a server",
        description="Run labelme, which must be installed in the same Python environment, with its AI models answered"
        " by the server in OSAMD_URL (http://127.0.0.1:11368), with the key in OSAMD_API_KEY.",
        # All arguments are labelme's, --help and --version too: no prefix makes an option of them.
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("arguments", nargs="*", metavar="...", help="labelme's own arguments")
    parser.set_defaults(command=("osamd.cli.labelme", "run"))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {LONGEST_S}")
    return value
