"""Label Studio's ML backend, at ``/label-studio/{model}``."""

from osamd.server.doors.label_studio.routes import DOOR

__all__ = ["DOOR"]
