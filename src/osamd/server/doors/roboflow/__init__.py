"""Roboflow's inference server, as inference-sdk 1.8 calls it, at ``/roboflow``: SAM, SAM 2 and SAM 3."""

from osamd.server.doors.roboflow.routes import DOOR

__all__ = ["DOOR"]
