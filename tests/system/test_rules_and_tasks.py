"""Rules and dead letters as whoever runs the platform sees them: settings, commands, UPS-RS."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import httpx
import pytest
from conftest import COMMAND, ServerStarter
from dicom_data import part10, series

from pacs import uids

pytestmark = pytest.mark.system

STUDY, SERIES = uids.derived("study", 0), uids.derived("series", 0, 0)
RULES = """[
    {name = "many", plugin = "bone-surface", expect = ["200"], wait_s = 3600},
    {name = "thick", plugin = "bone-surface", when = ["SliceThickness >= 5"], priority = "LOW"},
    {name = "off", plugin = "microcalcification", run = false},
]"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def test_rules_and_dead_letters_by_command(start: ServerStarter) -> None:
    server = start(settings={"M3DICOM_RULES": RULES.replace("\n", " ").replace("}, ]", "}]")})
    with server.client() as client:
        body = (
            b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(ds) + b"\r\n" for ds in series(60))
            + b"--b--"
        )
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        assert client.post("/studies", content=body, headers={"Content-Type": kind}).status_code == 200
        listed = server.command("rules", "list")
        assert [line.split("\t")[0] for line in listed.splitlines()] == ["many", "thick"]
        api = server.http + "/api"
        until(lambda: client.get(f"{api}/rules/waiting").json() != [], "the rule waits")
        assert "60 of 200 instances are here" in server.command("rules", "waiting")
        tested = server.command("rules", "test", STUDY).splitlines()
        many, thick = (line for line in tested if not line.startswith("\t"))
        assert many.split("\t")[2].startswith("waits until ")
        assert thick.split("\t")[2:] == ["does nothing", "series 1: SliceThickness >= 5 does not hold"]

        workitem = {
            "0020000D": {"vr": "UI", "Value": [STUDY]},
            "00404005": {"vr": "DT", "Value": ["20260102120000"]},
            "00404018": {"vr": "SQ", "Value": [{
                "00080100": {"vr": "SH", "Value": ["nothing-like-it"]},
                "00080102": {"vr": "SH", "Value": ["99M3DICOM"]},
                "00080104": {"vr": "LO", "Value": ["Nothing"]}}]},
            "00404021": {"vr": "SQ", "Value": [{
                "0020000D": {"vr": "UI", "Value": [STUDY]}, "0020000E": {"vr": "UI", "Value": [SERIES]}}]},
            "00404041": {"vr": "CS", "Value": ["READY"]},
            "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
            "00741200": {"vr": "CS", "Value": ["HIGH"]},
            "00741204": {"vr": "LO", "Value": ["A plug-in that nobody has"]},
        }  # fmt: skip
        answer = client.post("/workitems", content=json.dumps([workitem]),
                             headers={"Content-Type": "application/dicom+json"})  # fmt: skip
        assert answer.status_code == 201, answer.text
        dead = answer.headers["location"].rsplit("/", 1)[1]
        until(lambda: client.get(f"{api}/tasks?ended=failed").json() != [], "a dead letter")
    [line] = server.command("tasks", "list", "--dead").splitlines()
    assert line.split("\t")[1:3] == ["failed", "nothing-like-it"]
    assert line.endswith("no plug-in named nothing-like-it is installed here")
    assert "A plug-in that nobody has" in server.command("tasks", "show", dead)

    again = server.command("tasks", "requeue", dead).splitlines()[0].split("\t")
    assert again[0] == dead
    with server.client() as client:
        until(lambda: client.get(f"{api}/tasks/{again[1]}").json()["ended"] == "failed", "dead once more")
    twice = subprocess.run(
        [COMMAND, "tasks", "requeue", dead, "--data", str(server.data)],
        capture_output=True, text=True, env=server.environment, timeout=60, check=False,
    )  # fmt: skip
    assert (twice.returncode, "no dead letter" in twice.stderr) == (1, True)
    assert server.command("tasks", "discard", "--plugin", "nothing-like-it") == "1 discarded\n"
    assert server.command("tasks", "list", "--dead") == ""
    assert json.loads(server.command("tasks", "list", "--json").splitlines()[0])["ended"] == "discarded"

    refused = httpx.post(f"{server.http}/api/tasks/requeue", json={"plugin": "x"})
    assert refused.status_code == 401


def test_a_rule_that_cannot_be_is_told_at_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("refused")
    (folder / "m3dicom.toml").write_text('[[rules]]\nname = "r"\nplugin = "bone-surface"\nwhen = ["Modalty = CT"]\n')
    run = subprocess.run(
        [COMMAND, "serve", "--config", str(folder / "m3dicom.toml"), "--data", str(folder / "data"),
         "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "setting rules: r: 'Modalty' is no keyword of PS3.6" in run.stderr
