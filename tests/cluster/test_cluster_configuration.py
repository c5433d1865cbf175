"""Limits of a cluster that must fit each other, and a start that fails. No Ray."""

import os
import random
import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import free_port

from osamd.cluster import local
from osamd.cluster.configuration import CONTENT_BYTES, LOOPBACK, MESSAGE_BYTES, SEGMENTER_CALLS, Plan, serve_config
from osamd.errors import SettingsError, UnreachableError
from osamd.settings import Settings


def test_one_key_cannot_take_all_calls_of_a_segmenter() -> None:
    """Not even through as many edges as there may be."""
    edge = serve_config(Plan())["applications"][0]["deployments"][0]
    most = edge["autoscaling_config"]["max_replicas"] * Settings.model_fields["concurrent_requests"].default
    assert SEGMENTER_CALLS > most + Settings.model_fields["concurrent_requests"].default


def test_segmenters_do_not_run_beside_keys() -> None:
    """Without a GPU, which edge machines lack, they need a resource of their own; on this machine they need nothing."""
    edge, segmenter = (one["ray_actor_options"] for one in serve_config(Plan())["applications"][0]["deployments"])
    assert edge["resources"].keys().isdisjoint(segmenter["resources"])
    (_, with_gpu) = serve_config(Plan(gpus=0.5))["applications"][0]["deployments"]
    assert with_gpu["ray_actor_options"].keys() == {"num_cpus", "num_gpus"}
    for here in serve_config(Plan(), is_local=True)["applications"][0]["deployments"]:
        assert here["ray_actor_options"] == {"num_cpus": 0}


def test_serve_ends_no_request() -> None:
    """A pull takes as long as it takes; osamd has deadlines of its own."""
    for is_local in (False, True):
        assert "request_timeout_s" not in serve_config(Plan(), is_local=is_local)["http_options"]


def test_a_message_has_room_for_the_largest_photo() -> None:
    """With a prompt beside it."""
    assert Settings.model_fields["max_body_bytes"].default < CONTENT_BYTES < MESSAGE_BYTES


def test_a_start_that_fails_keeps_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says where."""

    def fail(*_: Any) -> None:
        raise UnreachableError("the cluster did not start: no memory")

    def nothing(*_: Any, **__: Any) -> None:
        pass

    monkeypatch.setattr(local, "_ray", lambda *_: nullcontext())
    monkeypatch.setattr(local, "wait_until_running", fail)
    for name in ("deploy", "adopt_orphans", "stopping_by_exception", "end_descendants"):
        monkeypatch.setattr(local, name, nothing)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(UnreachableError, match="did not start: no memory; its logs are in ") as raised,
        local.running(serve_config(Plan(host="127.0.0.1", port=free_port()), is_local=True), nothing),
    ):
        pass
    (folder,) = tmp_path.iterdir()
    assert str(raised.value).endswith(str(folder / local.LOGS))


def test_ports_chosen_here_are_free_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives none of them to a connection before HAProxy listens."""
    ephemeral, _ = (int(end) for end in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert max(local.LISTENERS) < min(ephemeral, 30_000)
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        tried = [port, *random.sample(local.LISTENERS, 1000)]
        monkeypatch.setattr(random, "sample", lambda *_: tried)
        first, second = local._free_ports(2)
        assert len({port, first, second}) == 3
        monkeypatch.setattr(random, "sample", lambda *_: [port])
        with pytest.raises(SettingsError, match="no free port"):
            local._free_ports(1)


def test_a_proxy_that_crashes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, without the traceback of Ray's worker. Ray itself is not installed here."""

    class TaskError(Exception):
        cause = OSError("cannot bind socket")

    def start(**_: Any) -> None:
        raise TaskError

    serve = SimpleNamespace(start=start)
    exceptions = SimpleNamespace(RayActorError=KeyError, RayTaskError=TaskError)
    for name, module in (("ray", SimpleNamespace(serve=serve)), ("ray.serve", serve), ("ray.exceptions", exceptions)):
        monkeypatch.setitem(sys.modules, name, module)

    with pytest.raises(UnreachableError, match=r"^Ray Serve's proxy did not start: cannot bind socket$"):
        local._start_serve(serve_config(Plan(), is_local=True))
