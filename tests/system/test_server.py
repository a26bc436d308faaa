"""The command as people and scripts use it: start, ready file, health, tokens, login link, stop."""

from __future__ import annotations

import signal
import stat
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import COMMAND, RunningServer, ServerStarter, needed
from dimse_client import CT, EXPLICIT, Aborted, Association
from faults.load import Load, check, dataset_of

pytestmark = pytest.mark.system


def test_start_to_stop(start: ServerStarter) -> None:
    server = start()
    assert list(server.ready)[:2] == ["http", "dimse"]
    assert httpx.get(f"{server.http}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{server.http}/health/ready").json() == {"status": "ready"}
    host, port = server.dimse
    subprocess.run([needed("echoscu"), "-aec", "M3DICOM", host, str(port)], check=True, timeout=20)
    text = "".join(server.output)
    assert f"{server.dicomweb}" in text
    assert "/#login=" in text
    assert "dcmsend" in text
    assert "curl" in text
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in server.data.glob("index.db*"))
    assert server.stop(signal.SIGINT) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.http}/health/live")


def test_sigterm_stops_cleanly_and_what_was_promised_stays(start: ServerStarter) -> None:
    server = start()
    token, load = server.token, Load(sizes=(64,))
    stream = [load.new(0) for _ in range(600)]
    with Association(server.dimse, contexts=((CT, (EXPLICIT,)),), timeout=60) as assoc:

        def send() -> None:
            with suppress(OSError):
                for name, file in stream:
                    assoc.send(assoc.store_message(CT, name, dataset_of(file)))

        sending = threading.Thread(target=send)
        sending.start()
        with pytest.raises((Aborted, ConnectionError)):  # noqa: PT012
            while True:
                answer = assoc.response()[0]
                assert answer[0x0900] == 0
                load.book.promised.add(answer[0x1000])
                if len(load.book.promised) == 50:
                    server.process.send_signal(signal.SIGTERM)
        assoc.over = True
        sending.join(60)
    assert server.process.wait(60) == 0
    assert len(load.book.promised) >= 50
    again = start()
    with httpx.Client(base_url=again.dicomweb, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        assert check(client, load.book) >= len(load.book.promised)


@pytest.mark.parametrize("path", ["/dicom-web/studies", "/api/session", "/api/plugins", "/api/events", "/dicom-web"])
def test_nothing_answers_without_a_credential(running_server: RunningServer, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer m3d_wrong"},
        {"Authorization": "Basic YTpi"},
        {"Cookie": "m3dicom_session=x"},
    ):
        answer = httpx.get(running_server.http + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


def test_login_link_is_good_for_one_session(running_server: RunningServer) -> None:
    link = urlsplit(running_server.login_link)
    code = link.fragment.removeprefix("login=")
    with httpx.Client(base_url=running_server.http) as browser:
        assert browser.post("/api/login", json={"code": code}).status_code == 204
        cookie = browser.cookies.jar
        assert all(c.has_nonstandard_attr("HttpOnly") for c in cookie)
        assert browser.get("/api/session").json()["name"] == "operator"
        # A cookie alone changes nothing: the request must come from a page of ours.
        forged = browser.post("/dicom-web/studies", headers={"Origin": "http://evil.example"}, content=b"")
        assert forged.status_code == 403
        assert browser.post("/api/logout", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 204
        assert browser.get("/api/session").status_code == 401
    assert httpx.post(f"{running_server.http}/api/login", json={"code": code}).status_code == 401


def test_a_revoked_token_is_refused(running_server: RunningServer) -> None:
    token = running_server.command("token", "create", "--name", "leaver").strip().splitlines()[-1]
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{running_server.http}/api/session", headers=headers).json()["name"] == "leaver"
    assert "leaver" in running_server.command("token", "list")
    running_server.command("token", "revoke", "--name", "leaver")

    time.sleep(2.1)
    assert httpx.get(f"{running_server.http}/api/session", headers=headers).status_code == 401


def test_secrets_are_neither_logged_nor_stored(running_server: RunningServer) -> None:
    token = running_server.token
    httpx.get(f"{running_server.dicomweb}/studies", headers={"Authorization": f"Bearer {token}"})
    assert token not in "".join(running_server.output)
    for path in Path(running_server.data).rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()


def test_two_servers_on_one_folder_are_refused(running_server: RunningServer) -> None:
    run = subprocess.run(
        [COMMAND, "serve", "--data", str(running_server.data), "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "another server already runs" in run.stderr


def test_a_taken_port_is_told_in_words(running_server: RunningServer, tmp_path: Path) -> None:
    run = subprocess.run(
        [COMMAND, "serve", "--data", str(tmp_path / "d"), "--http", running_server.ready["http"], "--dimse", ""],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "cannot listen on" in run.stderr
    assert "Traceback" not in run.stderr


def test_folders_that_cannot_be_used_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for given, words in (
        (["--data", str(tmp_path / "file")], "setting data"),
        (["--data", str(tmp_path / "d"), "--ready-file", str(tmp_path / "no" / "ready")], "no folder for"),
    ):
        run = subprocess.run(
            [COMMAND, "serve", *given, "--http", "127.0.0.1:0", "--dimse", ""],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert run.returncode == 1
        assert words in run.stderr
        assert "Traceback" not in run.stderr


def test_events_end_with_the_token(running_server: RunningServer) -> None:
    token = running_server.command("token", "create", "--name", "listener").strip().splitlines()[-1]
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": "9" * 30}
    with httpx.stream("GET", f"{running_server.http}/api/events", headers=headers, timeout=10) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        running_server.command("token", "revoke", "--name", "listener")
        for _ in lines:
            pass  # ends, where a read would time out
