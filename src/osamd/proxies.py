"""Proxy and certificates of a request from the environment, with errors that name the variable at fault.

httpx2 reads the same variables, but all at once: a SOCKS proxy or a missing certificate file breaks even plain HTTP to
loopback, which needs neither.
"""

import importlib.util
import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx2

from osamd.errors import SettingsError

PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")
HOST: Final = re.compile(r"[\w.:-]+", re.ASCII)
MAX_PORT: Final = 65535
CERTIFICATE_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True)
class EnvironmentProxy:
    """A proxy from the environment.

    Attributes:
        url: its address, with its password.
        variable: the environment variable that sets it.
    """

    url: httpx2.URL = field(repr=False)
    variable: str

    def __str__(self) -> str:
        """Address and variable, for messages; without user name and password."""
        return f"the proxy {without_secrets(self.url)} from {self.variable}"


def is_loopback(host: str) -> bool:
    """Whether a host is loopback, by its name or address, without DNS."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def proxy_for(url: httpx2.URL) -> EnvironmentProxy | None:
    """The proxy of a URL from ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``; None for loopback.

    Raises:
        SettingsError: the proxy is invalid; the message names the variable.
    """
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    for kind in (url.scheme, "all"):
        value = proxies.get(kind)
        if value:
            return _proxy(value.strip(), _variable(f"{kind}_proxy"))
    return None


def _proxy(value: str, variable: str) -> EnvironmentProxy:
    try:
        url = httpx2.URL(value if "://" in value else f"http://{value}")
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if url.scheme not in PROXY_SCHEMES or not is_address(url):
        raise SettingsError(f"{variable}: expected a proxy such as http://host:port or socks5://host:port")
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise SettingsError(
            f"{variable}: SOCKS proxies need the package socksio (pip install socksio);"
            " to connect without the proxy, add the host to NO_PROXY"
        )
    return EnvironmentProxy(url, variable)


def is_address(url: httpx2.URL) -> bool:
    """Whether a URL has a valid host and port."""
    return HOST.fullmatch(url.raw_host.decode("ascii")) is not None and 0 < (url.port or 1) <= MAX_PORT


def without_secrets(url: httpx2.URL) -> httpx2.URL:
    """The URL without user name and password."""
    return url.copy_with(username=None, password=None)


def _variable(name: str) -> str:
    return next((each for each in (name, name.upper()) if os.environ.get(each)), "the system's settings")


def tls_context(*schemes: str) -> ssl.SSLContext:
    """How TLS is verified.

    Args:
        schemes: of the server and of its proxy. Without ``https``, no certificates are read.

    Raises:
        SettingsError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` cannot be read; the message names it.
    """
    if "https" not in schemes:
        # Trusts no certificates, so that a mistake here cannot weaken a connection.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        named = [name for name in CERTIFICATE_VARIABLES if os.environ.get(name)]
        reason = error.strerror or "not PEM certificates"
        source = named[0] if named else "the system's certificates"
        raise SettingsError(f"{source}: cannot read the trusted certificates: {reason}") from None
