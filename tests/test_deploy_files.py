"""What the files for hosts must agree on with the server; ``make lint`` holds each against its host's schema."""

import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from osamd.cluster.configuration import Plan, node_environment, serve_config
from osamd.library.catalog import load_catalog
from osamd.settings import Settings, load_settings, variable_of

ROOT = Path(__file__).resolve().parents[1]
PORT, MOUNT = "11368", "/root/.cache/osam"
HOSTS = [
    ROOT / "fly.toml.example",
    ROOT / "deploy" / "compose" / "compose.yaml",
    ROOT / "deploy" / "cloudrun" / "service.yaml",
    ROOT / "deploy" / "azure" / "containerapp.yaml",
    ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml",
]


def words(path: Path) -> list[str]:
    """What a file's lines say, without comments, quotes and brackets."""
    lines = [line.partition("#")[0] for line in path.read_text("utf-8").splitlines()]
    return "".join(char if char not in "\"'[]{}(),=" else " " for char in "\n".join(lines)).split()


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_port_volume_and_probes(path: Path) -> None:
    """Each host sends to the port we listen on, mounts where models are kept, and asks paths that answer."""
    said = words(path)
    assert [word for word in said if PORT in word]
    assert [word for word in said if word.endswith(MOUNT)]
    paths = {after for before, after in pairwise(said) if before in {"path", "path:"}}
    assert paths <= {"/health", "/ready"}


def test_named_settings_exist() -> None:
    """No file for a host sets a variable that osamd does not read."""
    known = {variable_of(name) for name in Settings.model_fields}
    files = [path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".json"]
    files += [ROOT / "Dockerfile", ROOT / "fly.toml.example", ROOT / ".env.example"]
    found = {name for path in files for name in re.findall(r"\bOSAMD_[A-Z_]+", path.read_text("utf-8"))}
    assert found
    assert set() == found - known


def test_named_models_exist() -> None:
    """What the files preload or pull is in the catalogue."""
    names = {
        word for path in (ROOT / "deploy").rglob("*") for word in (words(path) if path.is_file() else []) if ":" in word
    }
    wanted = {name for name in names if name.startswith(("sam", "efficientsam", "yoloworld"))}
    assert {"sam2:tiny"} == wanted
    assert all(load_catalog().resolve(name) for name in wanted)


def test_env_example_can_be_uncommented() -> None:
    """Each line of .env.example is a setting, those that are commented out too."""
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    pairs = [line.removeprefix("#").partition("=") for line in lines if "=" in line and not line.startswith("# ")]
    values = {name: value for name, _, value in pairs}
    assert {"API_KEY", "APP_ENV"} < set(values)
    assert set(values) <= {variable_of(name) for name in Settings.model_fields}
    fields = {variable_of(name): name for name in Settings.model_fields}
    flags: dict[str, Any] = {fields[name]: value for name, value in values.items()}
    settings = load_settings(**flags)
    assert ("your_local_key_here", "cuda") == (
        settings.api_key and settings.api_key.get_secret_value(),
        settings.device,
    )


def test_fly_is_as_the_seed_has_it() -> None:
    """The seed's volume, port and sleeping, on a machine that Fly.io still has."""
    fly = tomllib.loads((ROOT / "fly.toml.example").read_text("utf-8"))
    assert [("osam_cache", MOUNT, "5gb")] == [
        (mount["source"], mount["destination"], mount["initial_size"]) for mount in fly["mounts"]
    ]
    service = fly["http_service"]
    assert (int(PORT), "stop", True, 0) == (
        service["internal_port"],
        service["auto_stop_machines"],
        service["auto_start_machines"],
        service["min_machines_running"],
    )
    assert "Dockerfile" == fly["build"]["dockerfile"]
    assert "gpu" not in str(fly["vm"])


class Modal(ModuleType):
    """Modal's library as far as the file needs it; remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("modal")
        self.told: dict[str, Any] = {}
        self.Image, self.Volume, self.Secret = self, self, self

    def from_registry(self, name: str) -> "Modal":
        """An image."""
        self.told["registry"] = name
        return self

    def entrypoint(self, command: list[str]) -> "Modal":
        """An image with another entry point."""
        self.told["entrypoint"] = command
        return self

    def env(self, variables: dict[str, str]) -> "Modal":
        """An image with variables."""
        self.told["env"] = variables
        return self

    def from_name(self, name: str, **_: Any) -> str:
        """A volume or a secret."""
        return name

    def App(self, _: str) -> "Modal":  # noqa: N802 - Modal's name
        """An app."""
        return self

    def function(self, **options: Any) -> Callable[[Any], Any]:
        """A function's machine."""
        self.told |= options
        return lambda function: function

    def concurrent(self, **options: int) -> Callable[[Any], Any]:
        """Requests at a time."""
        self.told |= options
        return lambda function: function

    def asgi_app(self) -> Callable[[Any], Any]:
        """A web server."""
        return lambda function: function


def test_modal_serves_our_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function gives the app of /app/main.py, on the GPU image, over a volume at our cache, and sleeps."""
    modal, main = Modal(), ModuleType("main")
    main.__dict__["app"] = object()
    monkeypatch.setitem(sys.modules, "modal", modal)
    monkeypatch.setitem(sys.modules, "main", main)
    monkeypatch.setattr(sys, "path", list(sys.path))
    web = runpy.run_path(str(ROOT / "deploy" / "modal" / "app.py"))["web"]
    assert main.__dict__["app"] is web()
    assert "/app" == sys.path[0]
    assert [MOUNT] == list(modal.told["volumes"])
    assert (0, [], "L4") == (modal.told["min_containers"], modal.told["entrypoint"], modal.told["gpu"])
    assert modal.told["registry"].endswith(":gpu")


def kuberay(name: str) -> Any:
    """A file of deploy/kuberay."""
    return yaml.safe_load((ROOT / "deploy" / "kuberay" / name).read_text("utf-8"))


def test_kuberay_has_the_configuration_that_the_command_prints() -> None:
    """For the model it is for; and Ray's settings are those of a cluster on this machine."""
    spec = kuberay("rayservice.yaml")["spec"]
    assert serve_config(Plan(models=("sam2:tiny",), gpus=0.5)) == yaml.safe_load(spec["serveConfigV2"])
    settings = kuberay("settings.yaml")["data"]
    with_haproxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/local/bin/haproxy"}
    assert node_environment() | with_haproxy == {
        name: value for name, value in settings.items() if name.startswith("RAY_")
    }


def test_kuberay_gives_keys_to_edges_alone() -> None:
    """No other pod mounts the Secret or names a key, Ray takes nothing without its token, and GPUs start from zero."""
    cluster = kuberay("rayservice.yaml")["spec"]["rayClusterConfig"]
    edge, gpu = cluster["workerGroupSpecs"]
    assert "osamd-keys" in str(edge["template"])
    assert "API_KEY_FILE" in str(edge["template"])
    for other in (gpu["template"], cluster["headGroupSpec"]["template"], kuberay("settings.yaml")):
        assert "osamd-keys" not in str(other)
        assert "API_KEY" not in str(other)
    assert "token" == cluster["authOptions"]["mode"]
    assert (0, 0) == (gpu["replicas"], gpu["minReplicas"])


def test_the_gateway_of_kuberay_reaches_edges_alone() -> None:
    """Requests, with their keys, do not pass through the HAProxy of a GPU pod or of the head."""
    cluster = kuberay("rayservice.yaml")["spec"]["rayClusterConfig"]
    edge, gpu = (group["template"]["metadata"]["labels"].items() for group in cluster["workerGroupSpecs"])
    head = cluster["headGroupSpec"]["template"]["metadata"]["labels"].items()
    (policy,) = (
        one
        for one in yaml.safe_load_all((ROOT / "deploy" / "kuberay" / "network.yaml").read_text("utf-8"))
        if one["metadata"]["name"] == "osamd-cluster-gateway"
    )
    for selector in (kuberay("service.yaml")["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        assert [True, False, False] == [selector.items() <= labels for labels in (edge, gpu, head)]


def test_the_image_for_kuberay_has_its_version_of_ray() -> None:
    """Pods of different versions of Ray do not form a cluster."""
    version = kuberay("rayservice.yaml")["spec"]["rayClusterConfig"]["rayVersion"]
    pinned = (ROOT / "requirements" / "cluster.txt").read_text("utf-8")
    assert f"\nray=={version} " in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert [f"ray[serve]=={version}"] == project["optional-dependencies"]["cluster"]


def test_kubernetes_balancers_ask_for_a_whole_name() -> None:
    """HAProxy's resolver reads the name servers of resolv.conf and not its search domains."""
    path = ROOT / "deploy" / "kubernetes" / "replicas" / "balancer.yaml"
    parts = list(yaml.safe_load_all(path.read_text("utf-8")))
    (container,) = next(part for part in parts if part["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    headless = next(part for part in parts if part["spec"].get("clusterIP") == "None")["metadata"]["name"]
    names = [variable["name"] for variable in container["env"]]
    replicas = next(variable["value"] for variable in container["env"] if variable["name"] == "BALANCER_REPLICAS")
    assert f"{headless}.$(NAMESPACE).svc.cluster.local:{PORT}" == replicas
    # Kubernetes replaces only variables that were set before.
    assert names.index("NAMESPACE") < names.index("BALANCER_REPLICAS")
