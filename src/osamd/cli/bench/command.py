"""The command: measure, print the table, write the files."""

import argparse
import json
import sys

from osamd.cli.bench.chart import svg
from osamd.cli.bench.phases import Plan, measure
from osamd.cli.bench.progress import Progress
from osamd.cli.bench.report import text
from osamd.cli.files import STANDARD, check_output, write_output
from osamd.errors import InvalidRequestError
from osamd.settings import load_settings


def run(arguments: argparse.Namespace) -> int:
    """Measure a deployment."""
    files = {"--json": (arguments.json, "application/json"), "--plot": (arguments.plot, "image/svg+xml")}
    for flag, (name, kind) in files.items():
        if name is not None:
            check_output(name, flag, kind)
    if arguments.json == arguments.plot == STANDARD:
        raise InvalidRequestError("--json - and --plot - both write to standard output: use only one")
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
    # Standard output is for one document.
    print(text(result), file=sys.stderr if STANDARD in {arguments.json, arguments.plot} else sys.stdout)
    if arguments.json is not None:
        write_output(json.dumps(result.as_json(), indent=1).encode(), arguments.json)
    if arguments.plot is not None:
        write_output(svg(result).encode(), arguments.plot)
    return 0
