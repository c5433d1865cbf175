"""The OpenAPI document is shipped as a file: it tells what the routes have, for every choice of doors."""

import subprocess
import sys
from typing import get_args

import pytest
from starlette.routing import Route

from osamd.server.app import create_app
from osamd.server.doors import open_doors
from osamd.server.openapi import write_document
from osamd.server.operations import OperationRoute
from osamd.server.routes.docs import openapi_document
from osamd.settings import DoorName, Settings

DOORS = get_args(DoorName)


@pytest.mark.parametrize("names", [(), *((name,) for name in DOORS), tuple(reversed(DOORS))], ids=str)
def test_shipped_document_is_reduced_to_the_open_doors(names: tuple[DoorName, ...]) -> None:
    """It has what one written of this app's own routes would have, in the same order."""
    settings = Settings(doors=names, preload=())
    written = write_document(create_app(settings).routes, open_doors(settings))
    shipped = openapi_document(names)

    assert written == shipped
    assert list(written["paths"]) == list(shipped["paths"])


def test_every_route_is_described_or_left_out_on_purpose() -> None:
    """Every operation of the document is a route's, with its path and its method; pages and HEAD are not in it."""
    settings = Settings(doors=DOORS, preload=())
    routes = create_app(settings).routes
    document = openapi_document(DOORS)

    described = {
        (route.method.lower(), route.path)
        for route in routes
        if isinstance(route, OperationRoute) and route.operation is not None
    }
    assert described == {(method, path) for path, methods in document["paths"].items() for method in methods}
    left_out = {route.path for route in routes if isinstance(route, Route)} - {path for _, path in described}
    assert {
        "/qupath",
        "/docs",
        "/docs/{name:path}",
        "/openapi.json",
        "/playground",
        "/playground/{name:path}",
    } == left_out


def test_servers_do_not_write_the_document() -> None:
    """What writes it, the examples and FastAPI are not imported to answer it."""
    program = (
        "import sys\n"
        "from osamd.server.app import create_app\n"
        "from osamd.server.routes.docs import openapi_document\n"
        "from osamd.settings import Settings\n"
        "create_app(Settings(preload=()))\n"
        "assert openapi_document(('cvat',))['paths']\n"
        "print({'osamd.server.openapi', 'osamd.server.examples', 'fastapi', 'fastapi_offline'} & sys.modules.keys())\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert "set()\n" == ended.stdout
