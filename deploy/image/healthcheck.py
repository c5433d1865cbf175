"""Docker's HEALTHCHECK: whether the server in this container answers ``/health``."""

import os
import sys
from http.client import HTTPConnection

connection = HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 11368), timeout=4)
connection.request("GET", "/health")
sys.exit(connection.getresponse().status != 200)  # noqa: PLR2004
