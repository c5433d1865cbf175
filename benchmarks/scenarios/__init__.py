"""One module a scenario: ``measure`` takes the workbench and returns the outcome."""

from collections.abc import Callable

from benchmarks.rows import Outcome
from benchmarks.scenarios import (
    click,
    cold_start,
    everything,
    health,
    many_prompts,
    memory,
    new_image,
    new_photos,
    overtaking,
    peers,
    processes,
    throughput,
)
from benchmarks.workbench import Workbench

SCENARIOS: dict[str, Callable[[Workbench], Outcome]] = {
    "click": click.measure,
    "new_image": new_image.measure,
    "new_photos": new_photos.measure,
    "many_prompts": many_prompts.measure,
    "overtaking": overtaking.measure,
    "everything": everything.measure,
    "throughput": throughput.measure,
    "processes": processes.measure,
    "peers": peers.measure,
    "health": health.measure,
    "cold_start": cold_start.measure,
    "memory": memory.measure,
}
