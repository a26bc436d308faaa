"""`m3dicom import`: whole folders, directly and through a running server; every file that is not stored is told."""

from __future__ import annotations

import io
from pathlib import Path

import dicom_data
import pytest
import raw_dicom
from conftest import ServerStarter

from pacs import uids
from pacs.archive import open_archive
from pacs.auth import SYSTEM
from pacs.dicom import part10
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.importing import missing_head
from pacs.server import cli
from pacs.server.commands.import_ import OverTheWire
from pacs.server.progress import Bar
from pacs.settings import Settings

STUDY = uids.derived("study", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as real folders hold them: ten good ones of four kinds, and others."""
    root = tmp_path / "old archive"
    for below in (root / "a" / "b", root / "z"):
        below.mkdir(parents=True)
    held = list(dicom_data.series(10))
    for number, ds in enumerate(held[:7]):
        (root / "a" / f"IM{number}").write_bytes(dicom_data.part10(ds))
    (root / "a" / "b" / "bare explicit").write_bytes(dicom_data.dataset_bytes(held[7]))
    (root / "a" / "b" / "bare implicit").write_bytes(dicom_data.dataset_bytes(held[8], "1.2.840.10008.1.2"))
    (root / "a" / "b" / "no preamble").write_bytes(dicom_data.part10(held[9])[132:])
    (root / "readme.txt").write_text("Exported by a vendor long gone")
    (root / "empty").write_bytes(b"")
    (root / "cut short.dcm").write_bytes(dicom_data.part10(held[0])[:-20])
    (root / "z" / "other content.dcm").write_bytes(
        dicom_data.part10(dicom_data.image(5, SOPInstanceUID=held[1].SOPInstanceUID, StudyInstanceUID=STUDY))
    )
    (root / "DICOMDIR").write_bytes(
        b"\0" * 128 + b"DICM" + raw_dicom.element(0x00020002, "UI", b"1.2.840.10008.1.3.10") + b"\0" * 200
    )
    (root / "gone").symlink_to(root / "nowhere")
    return root


def judge(told: dict[str, tuple[str, str]]) -> None:
    assert set(told) == {"readme.txt", "empty", "cut short.dcm", "other content.dcm", "DICOMDIR", "gone"}
    assert {told[name][0] for name in ("readme.txt", "empty", "DICOMDIR")} == {"no DICOM"}
    assert {told[name][0] for name in ("cut short.dcm", "other content.dcm")} == {"refused"}
    assert told["gone"][0] == "unreadable"
    assert "other content" in told["other content.dcm"][1]
    assert "DICOMDIR" in told["DICOMDIR"][1]


def report(path: Path) -> dict[str, tuple[str, str]]:
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return {Path(name).name: (became, reason) for became, name, reason in lines}


def test_directly_and_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    arguments = ["import", str(folder), "--data", str(data), "--report", str(tmp_path / "report.tsv"), "--threads", "1"]
    for expected in ("10 stored, 0 were here already, 3 are no DICOM, 3 failed", "0 stored, 10 were here already"):
        assert cli.main(arguments) == 1
        assert expected in capsys.readouterr().out
        judge(report(tmp_path / "report.tsv"))
    archive = open_archive(Settings(data=data))
    locations = archive.retrieve.locate(SYSTEM, STUDY)
    assert len(locations) == 10
    assert len(archive.query.search(Query(Level.STUDY), SYSTEM).rows) == 1
    assert {archive.retrieve.dataset(each) for each in locations} == {
        dicom_data.dataset_bytes(ds, each.transfer_syntax_uid)
        for ds, each in zip(dicom_data.series(10), locations, strict=True)
    }
    archive.close()
    for name in ("cut short.dcm", "z/other content.dcm", "gone"):
        (folder / name).unlink()
    assert cli.main(arguments) == 0


def test_through_a_running_server(folder: Path, start: ServerStarter, tmp_path: Path) -> None:
    server = start()
    run = cli.main(["import", str(folder), "--data", str(server.data), "--report", str(tmp_path / "report.tsv")])
    assert run == 1
    told = report(tmp_path / "report.tsv")
    if "IM1" in told:  # whoever came first has the UID
        told["other content.dcm"] = told.pop("IM1")
    judge(told)
    with server.client() as client:
        (study,) = client.get("/studies").json()
    assert study["00201208"]["Value"] == [10]
    assert "import" not in server.command("token", "list")
    again = server.command("import", str(folder / "a" / "b"))
    assert "0 stored, 3 were here already" in again
    server.command("quarantine", "list")
    assert "command line" not in server.command("token", "list")


def test_a_server_that_goes_away_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from servers import free_port

    from pacs.importing import Import, Told

    monkeypatch.setattr("pacs.server.commands.import_._TRIES", 1)
    for number in range(40):
        (folder / f"more {number}").write_bytes(dicom_data.part10(dicom_data.image(number)))
    told: list[Told] = []
    taker = OverTheWire(f"127.0.0.1:{free_port()}", "m3d_token")
    counts = Import(taker, threads=2, tell=told.append).run([folder], lambda progress: None)
    assert counts.of["stored"] == 0
    assert counts.of["not tried"] > 0
    assert len(told) == counts.files == 40 + 16  # each is told of


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", str(tmp_path / "none"), "--data", str(tmp_path / "data")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_what_real_files_are_taken_for() -> None:
    taken = 0
    for path in raw_dicom.bundled_files():
        data = path.read_bytes()
        if data[128:132] == b"DICM" and b"1.2.840.10008.1.3.10" not in data[132:400]:
            assert missing_head(data) == b"", path
            taken += 1
    assert taken > 50


def test_what_lacks_preamble_prefix_or_group_length_is_dicom_all_the_same() -> None:
    ds = dicom_data.image()
    whole = dicom_data.part10(ds)
    for start in (0, 128, 132, 144):
        head = missing_head(whole[start:])
        assert head is not None, start
        made = head + whole[start:]
        syntax, at = part10.split(memoryview(made))
        assert (syntax, made[at:]) == ("1.2.840.10008.1.2.1", dicom_data.dataset_bytes(ds)), start


def test_pictures_and_programs_are_no_dicom() -> None:
    for first in (b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"\x7fELF" + b"\2\1\1" + b"\0" * 200, b"PK\3\4", b"\x08\0", b""):
        assert missing_head(first) is None


def test_the_line_says_how_far_it_is() -> None:
    now = [0.0]
    out = io.StringIO()
    bar = Bar("files", out=out, clock=lambda: now[0])
    bar.show(0, 1000)
    now[0] = 20.0
    bar.show(250, 1000, 3_000_000_000, 2)
    bar.end()
    assert out.getvalue().splitlines()[0] == (
        "[######..................]  25 % 250/1,000 files 3,000 MB 12/s 1:00 min left 2 refused"
    )
