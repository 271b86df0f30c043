"""The Kubernetes manifests: rendered, validated against the API, and like the container image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from test_image import USER_ID

from netsonde import __version__
from netsonde.daemon.privileges import NEEDED

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("agent", "example")


def program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def rendered(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [program("kubectl"), "kustomize", DIRECTORY / overlay], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid_and_match_the_image(overlay: str, tmp_path: Path) -> None:
    objects = {one["kind"]: one for one in rendered(overlay)}
    assert {"ConfigMap", "DaemonSet", "Namespace", "Role", "ServiceAccount"} <= objects.keys()
    for one in objects.values():
        kubernetes_validate.validate(one, "1.37", strict=True)

    pod = objects["DaemonSet"]["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    assert agent["image"].endswith(f"netsonde:{__version__}")
    assert pod["securityContext"]["runAsUser"] == int(USER_ID)
    allowed = agent["securityContext"]["capabilities"]
    assert allowed["drop"] == ["ALL"]
    assert [f"CAP_{name}" for name in allowed["add"]] == list(NEEDED["af_packet"])
    assert agent["securityContext"]["readOnlyRootFilesystem"]
    (configuration,) = (
        one["configMap"]["name"] for one in pod["volumes"] if one["name"] == "configuration"
    )
    assert configuration == objects["ConfigMap"]["metadata"]["name"]

    path = tmp_path / "netsonde.toml"
    path.write_text(objects["ConfigMap"]["data"]["netsonde.toml"])
    checked = subprocess.run(
        [program("netsonde"), "config", "check", "--config", path], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
