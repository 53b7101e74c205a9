"""The shipped files for systemd and Kubernetes: sound, and about settings that exist."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hatespeech.serving.settings import ServerSettings
from tests.paths import ROOT
from tests.support.services.nginx import changed

DEPLOY = ROOT / "deploy"
SETTINGS = {name.upper(): field for name, field in ServerSettings.model_fields.items()}


@pytest.mark.slow
def test_systemd_accepts_its_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("this system has no systemd-analyze")
    unit = tmp_path / "hatespeech.service"
    text = (DEPLOY / "hatespeech.service").read_text(encoding="utf-8")
    # The only thing of it that must exist.
    unit.write_text(changed(text, {"/opt/hatespeech/.venv/bin/python": sys.executable}))
    done = subprocess.run(
        [program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_sets_what_the_server_reads() -> None:
    text = (DEPLOY / "hatespeech.service").read_text(encoding="utf-8")
    lines = [
        line.removeprefix("Environment=") for line in text.splitlines() if "Environment=" in line
    ]
    given = dict(pair.split("=") for line in lines for pair in line.split())
    assert ServerSettings.from_environment({**given, "BEARER_TOKEN": "x"})
    assert set(given) <= set(SETTINGS)


def test_kubernetes_sets_what_the_server_reads() -> None:
    documents: list[dict[str, Any]] = list(
        yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    )
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"Deployment", "PersistentVolumeClaim", "Service"}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {each["name"]: each.get("value", "from a secret") for each in container["env"]}
    assert set(given) <= set(SETTINGS)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = ServerSettings.from_environment({**given, "BEARER_TOKEN": "x"})
    assert ports == {"http": settings.port, "health": settings.port_health}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "health"
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == volumes
    assert str(settings.jobs_db).startswith(mounts["data"])
    (claim,) = [each["persistentVolumeClaim"] for each in pod["volumes"] if each["name"] == "data"]
    assert claim["claimName"] == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    assert (
        kinds["Service"]["spec"]["selector"]
        == kinds["Deployment"]["spec"]["selector"]["matchLabels"]
    )
