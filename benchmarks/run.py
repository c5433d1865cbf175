"""Run scenarios and write one JSON file each, and one table and one picture of all.

    python -m benchmarks.run [--quick] [--only NAME,...]

Scenarios that are not run keep the file they have, and stay in the table with the commit they were measured at.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import picture
from benchmarks.machine import describe
from benchmarks.rows import Row, rows_of, table
from benchmarks.scenarios import SCENARIOS
from benchmarks.workbench import Workbench

RESULTS = Path(__file__).parent / "results"
BLOBS_VARIABLE = "OSAMD_BENCH_CACHE"


def blobs_folder() -> Path:
    """Where the models are kept between runs."""
    return Path(os.environ.get(BLOBS_VARIABLE) or Path.home() / ".cache" / "osamd-bench")


def main() -> int:
    """Measure; exits 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="Measure osamd beside osam and bare ONNX Runtime.")
    parser.add_argument("--quick", action="store_true", help="few samples, into results/quick")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--blobs", type=Path, default=blobs_folder(), help="folder with the models")
    parser.add_argument("--results", type=Path, help="folder for the results")
    arguments = parser.parse_args()
    results = arguments.results or (RESULTS / "quick" if arguments.quick else RESULTS)
    names = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    unknown = set(names) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    results.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="osamd-bench-") as folder,
        Workbench(arguments.blobs, Path(folder), is_quick=arguments.quick) as bench,
    ):
        for name in names:
            print(f"{name} ...", file=sys.stderr, end=" ", flush=True)
            begun = time.perf_counter()
            outcome = SCENARIOS[name](bench).as_json()
            document = {
                "scenario": name,
                "quick": arguments.quick,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "took_s": round(time.perf_counter() - begun, 1),
                "on": describe(),
                **outcome,
            }
            (results / f"{name}.json").write_text(compact(document), "utf-8")
            print(f"{document['took_s']} s", file=sys.stderr)
    documents = read_documents(results)
    (results / "table.md").write_text(page(documents), "utf-8")
    picture.write(results)
    rows = [row for document in documents for row in rows_of(document)]
    print(table(rows))
    return int(any(row.verdict == "missed" for row in rows))


def read_documents(results: Path) -> list[dict[str, Any]]:
    """The results that are there, in the scenarios' order."""
    files = [results / f"{name}.json" for name in SCENARIOS]
    return [json.loads(file.read_text("utf-8")) for file in files if file.exists()]


def page(documents: list[dict[str, Any]]) -> str:
    """The table with what a reader needs to judge it."""
    rows: list[Row] = [row for document in documents for row in rows_of(document)]
    scenarios_on: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        scenarios_on[_machine(document["on"])].append(document["scenario"])
    # Most scenarios first.
    machines = sorted(scenarios_on.items(), key=lambda item: -len(item[1]))
    others = [f"{', '.join(names)}: on {machine}." for machine, names in machines[1:]]
    taken = [
        f"- {document['scenario']}: commit {document['on']['commit']}, {document['at']}, `{document['on']['command']}`"
        for document in documents
    ]
    notes = [f"- {note}" for document in documents for note in document["notes"]]
    first = (
        f"{machines[0][0]}. Random weights of the real architectures. A ratio is the median over rounds in which both"
        " sides were measured one after the other; the quartiles and the number of rounds are next to it."
    )
    head = "<!-- Written by `python -m benchmarks.run`; do not edit. -->"
    return "\n".join([head, "", " ".join([first, *others]), "", table(rows), "", *notes, "", *taken, ""])


def _machine(on: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    machine = f"{on['processor']}, {on['cores']} cores, {on['memory_gb']} GB"
    return f"{machine}; {on['system']}, Python {on['python']}; {versions}"


def compact(document: dict[str, Any]) -> str:
    """JSON that can be read, with lists of numbers on one line and seconds to the microsecond."""
    return json.dumps(rounded(document), indent=1).replace("\n   ", " ") + "\n"


def rounded(value: Any) -> Any:
    """Floats to six digits after the point."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
