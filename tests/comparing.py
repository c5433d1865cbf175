"""Answers of two servers, so that they can be compared."""

import re
from typing import Any

import httpx2

# Made up anew for each answer, times, or the web server's own.
MASK_ID = re.compile(r"mask_([0-9a-f]{8})[0-9a-f]{24}")
REGION_ID = re.compile(r'"id":"[0-9a-f]{10}"')
TIMES = re.compile(r'"(expires_at|time|modified_at)":\s?("[^"]*"|[0-9.e-]+)')
TRANSPORT = {"content-length", "transfer-encoding", "connection", "server"}
UNSTABLE = TRANSPORT | {"x-request-id", "server-timing", "date"}


def comparable(reply: httpx2.Response) -> Any:
    """Status, headers and body without what is made up or timed."""
    request_id = reply.headers.get("x-request-id", "-")
    headers = {name: value for name, value in reply.headers.items() if name.lower() not in UNSTABLE}
    if reply.headers.get("content-type", "").startswith(("image/", "application/octet-stream")):
        return reply.status_code, headers, reply.content
    text = reply.text.replace(request_id, "ID")
    return reply.status_code, headers, TIMES.sub(r'"\1":0', REGION_ID.sub('"id":""', MASK_ID.sub(r"mask_\1", text)))
