"""Dockerfile and compose.yaml: no engine builds them here, so what they say is held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import yaml

from pacs.server.cli import _parser
from pacs.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)}


def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_sets_only_settings_that_exist() -> None:
    for name, service in compose()["services"].items():
        for variable in service.get("environment", {}):
            if variable.startswith(PREFIX):
                assert variable in SETTINGS, f"{name}: {variable}"


def test_compose_services_are_complete() -> None:
    file = compose()
    services = file["services"]
    assert set(services) == {"server", "worker", "postgresql", "redis", "s3"}
    for name, service in services.items():
        assert "image" in service, name
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in file["volumes"], f"{name}: {volume}"
        for other in service.get("depends_on", {}):
            assert other in services
    for name in ("server", "worker"):
        command = services[name]["command"]
        _parser(command[0]).parse_args(command)


def test_linters_find_nothing() -> None:
    scripts = Path(sys.executable).parent
    rules = "{extends: default, rules: {line-length: {max: 130}, document-start: disable}}"
    for command in (["hadolint", "Dockerfile"], ["yamllint", "-s", "-d", rules, "compose.yaml"]):
        run = subprocess.run(
            [scripts / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_no_secret_stands_in_a_file() -> None:
    for variable, value in compose()["services"]["postgresql"]["environment"].items():
        if "PASSWORD" in variable:
            assert value.startswith("${")


def test_dockerfile_copies_what_exists_and_runs_unprivileged() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    final = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert any(line.startswith("USER ") and "root" not in line for line in final)
    assert any(re.match(r'ENTRYPOINT \["m3dicom"\]', line) for line in final)
    assert all(re.search(r"FROM \S+:\S+", line) for line in lines if line.startswith("FROM")), "images are pinned"
