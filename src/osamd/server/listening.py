"""Listening sockets for dual-stack hosts: ``localhost``, and ``::``, which people expect to mean all addresses."""

import errno
import logging
import os
import socket
from contextlib import ExitStack
from typing import Final

from osamd.errors import SettingsError

logger = logging.getLogger("osamd")

# One socket per family: a dual-stack socket would show IPv4 clients as ::ffff:a.b.c.d, in logs and to
# OSAMD_TRUSTED_PROXIES.
IN_BOTH_FAMILIES: Final = {"localhost": ("127.0.0.1", "::1"), "::": ("::", "0.0.0.0")}  # noqa: S104 - asked for
# Errors of a machine without one of the families.
FAMILY_MISSING: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
BACKLOG: Final = 2048
# Retries for a random port that is free in one family and taken in the other.
ATTEMPTS: Final = 20


def listen(host: str, port: int) -> list[socket.socket] | None:
    """Sockets that listen on a dual-stack host, all on one port.

    Args:
        host: an address or name.
        port: 0 picks one that is free in both families.

    Returns:
        None if the host belongs to one family, or is a name to resolve.

    Raises:
        SettingsError: the port is taken, or neither family is available.
    """
    addresses = IN_BOTH_FAMILIES.get(host.lower())
    if addresses is None:
        return None
    attempts = 1 if port else ATTEMPTS
    for attempt in range(attempts):
        try:
            found = _bound(addresses, port)
        except OSError as error:
            if attempt == attempts - 1 or error.errno != errno.EADDRINUSE:
                raise SettingsError(f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}") from None
        else:
            break
    names = (_url(*bound.getsockname()[:2]) for bound in found)
    # The same line as uvicorn logs for other hosts.
    logger.info("Uvicorn running on %s", " and ".join(names))
    return found


def _bound(addresses: tuple[str, str], port: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        for address in addresses:
            try:
                bound = _listening(address, port)
            except OSError as error:
                if error.errno not in FAMILY_MISSING:
                    raise
                missing = error
                continue
            found.append(stack.enter_context(bound))
            port = bound.getsockname()[1]
        if missing is not None and not found:
            raise missing
        stack.pop_all()
    return found


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.create_server((address, port), family=family, backlog=BACKLOG)
    bound.setblocking(False)  # noqa: FBT003 - the socket's own
    return bound


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
