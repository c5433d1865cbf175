"""Other tools' protocols, one module each, named like the door; imported only if the door is open."""

from importlib import import_module

from osamd.server.door import Door
from osamd.settings import Settings


def open_doors(settings: Settings) -> tuple[Door, ...]:
    """The doors of ``OSAMD_DOORS``, each its module's ``DOOR``."""
    names = dict.fromkeys(settings.doors)
    return tuple(import_module(f"osamd.server.doors.{name.replace('-', '_')}").DOOR for name in names)
