"""CVAT's serverless functions: osamd in the place of nuclio's dashboard, at ``/api/functions``."""

from osamd.server.doors.cvat.routes import DOOR

__all__ = ["DOOR"]
