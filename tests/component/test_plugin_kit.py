"""The plug-in kit: its template works, its judge finds every misbehaviour, a stranger's package is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import COMMAND, ROOT

from analysis.kit import cases, new
from analysis.kit.cases import Case
from analysis.kit.check import Finding, cancelled, declared, judged, repeated
from analysis.kit.trial import Bench
from analysis.registry import Installed, Registry, resolve
from analysis.results.meanings import is_unit
from pacs.errors import InvalidInput

EXAMPLE = ROOT / "examples" / "air-spaces"


def python(*arguments: str, path: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python of this environment, with a folder of installed packages besides."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd, timeout=240, check=False
    )


def installed(package: Path, folder: Path) -> Path:
    """The folder into which a package was installed as pip does it."""
    run = python(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-warn-conflicts",
        "--target", str(folder), str(package), path=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder


def test_a_new_package_passes_its_own_tests(tmp_path: Path) -> None:
    new.write("lung-volume", tmp_path)
    site = installed(tmp_path / "lung-volume", tmp_path / "site")
    listed = python("-m", "pacs.server.cli", "plugin", "list", path=site)
    assert "lung-volume  0.1.0  Lung volume  (lung_volume:plugin)" in listed.stdout
    root = tmp_path / "lung-volume"
    # What the judge says of a plug-in of this shape is asked of the example, below.
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not manners", "tests", path=site, cwd=root)
    assert tests.returncode == 0, tests.stdout
    assert "3 passed" in tests.stdout
    # The order of imports depends on which folder the author's own tools take for the project.
    tidy = python("-m", "ruff", "check", "--ignore", "I001", "--config", "pyproject.toml", str(root), path=site)
    assert tidy.returncode == 0, tidy.stdout


@pytest.mark.parametrize(
    "name", ["Lung", "a", "lung volume", "class", "../lung", "1st", "lung-", "numpy", "analysis", "test"]
)
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a word of Python" if name == "class" else "name|module"):
        new.write(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "lung-volume").mkdir()
    with pytest.raises(InvalidInput, match="there already"):
        new.write("lung-volume", tmp_path)


def test_the_example_keeps_its_word(tmp_path: Path) -> None:
    site = installed(EXAMPLE, tmp_path / "site")
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), path=site)
    assert tests.returncode == 0, tests.stdout
    judged = python("-m", "pacs.server.cli", "plugin", "check", "air-spaces", path=site)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "air-spaces: 0 failed, " in judged.stdout
    # How soon it stops is also a matter of what else the machine has to do.
    advice = [line for line in judged.stdout.splitlines() if line.startswith("advice")]
    assert all("cancelled in the middle: killed after" in line for line in advice), advice
    assert "SEG, SR in" in judged.stdout


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    run = subprocess.run([COMMAND, "plugin", "check", "no-such-thing"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "no plug-in no-such-thing is installed" in run.stderr


def plugin(kind: str) -> Installed:
    """One of the plug-ins of tests/misbehaving.py."""
    target = f"misbehaving:{kind}"
    return Installed(target, resolve(target))


def tried(kind: str, params: dict[str, Any] | None = None) -> Finding:
    """What is found on the plain phantom."""
    one = plugin(kind)
    case = next(cases.cases(one.manifest))
    with Bench(one) as bench:
        return judged(one, case, bench.run(case, params or {}))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Connects", "TouchesTheNetwork"),
        ("Denies", "TouchesTheNetwork"),
        ("Writes", "WritesToTheDisk"),
        ("Starts", "StartsAProcess"),
        ("Raises", "ZeroDivisionError"),
        ("Dies", "SIGSEGV"),
        ("Hoards", "more than 400 MB"),
        ("Dawdles", "longer than 1 s"),
        ("Keeps", "declared, and not made: SR"),
        ("Mumbles", "cannot tell why"),
        ("Smuggles", "not declared"),
        ("Omits", "without the label map that holds them"),
        ("Understates", "made, and not declared: SR"),
    ],
)
def test_every_misbehaviour_is_found(kind: str, words: str) -> None:
    found = tried(kind)
    assert found.verdict == "failed"
    assert words in found.words


def test_a_result_that_changes_is_found() -> None:
    one = plugin("Gambles")
    case = next(cases.cases(one.manifest))
    with Bench(one) as bench:
        found = repeated(bench, case, {})
    assert found.verdict == "failed"
    assert "PixelData of the SEG" in found.words


@pytest.mark.parametrize(("kind", "patience_s"), [("Ignores", 60.0), ("Silent", 0.1)])
def test_deafness_is_found(kind: str, patience_s: float) -> None:
    one = plugin(kind)
    case = next(cases.cases(one.manifest))
    with Bench(one) as bench:
        found = cancelled(bench, case, {}, patience_s)
    assert found.verdict == "advice"
    assert "more often" in found.words


def test_own_data_has_to_give_a_result() -> None:
    one = plugin("Refuses")
    case = next(cases.cases(one.manifest))
    with Bench(one) as bench:
        outcome = bench.run(case, {})
    assert judged(one, case, outcome).verdict == "ok"
    assert judged(one, Case("your data", case.inputs, expects_result=True), outcome).verdict == "failed"


def test_what_is_declared_is_judged() -> None:
    words = [finding.words for finding in declared(plugin("Boasts")) if finding.verdict == "failed"]
    assert any("runs by itself" in each for each in words)
    assert any("defaults" in each for each in words)


def test_titles_and_units_are_what_dicom_can_carry() -> None:
    found = {(each.what, each.words.split()[1]) for each in declared(plugin("Mislabels")) if each.verdict == "failed"}
    assert found == {
        ("manifest", "title"), ("parameter shape", "title"), ("parameter colour", "title"),
        ("parameter depth", "title"), ("parameter depth", "unit"),
    }  # fmt: skip
    assert not [each for each in declared(plugin("Behaved")) if each.verdict == "failed"]


def test_units_that_are_not_of_ucum_are_asked_about() -> None:
    right = ("[hnsf'U]", "mm", "ml", "{pixels}", "mm/s", "g/cm3", "1", "%", "deg")
    wrong = ("HU", "px", "", "pixels", "mm/px", "{a b}")
    assert [code for code in (*right, *wrong) if is_unit(code)] == [*right]
    assert any("is none that PS3.16 knows" in each.words for each in declared(plugin("Mislabels")))
    for installed in Registry.load():  # those that come with it
        assert [each for each in declared(installed) if each.verdict == "failed" or "unit" in each.words] == []


def test_the_phantom_is_shaped_to_the_input() -> None:
    one = plugin("Particular")
    head = next(cases.cases(one.manifest)).inputs["scan"][0]
    assert (head.Modality, head.BodyPartExamined, list(head.ImageType)[-1]) == ("MR", "KNEE", "FAT")
    assert float(head.MagneticFieldStrength) >= 3
    assert "PatientName" in head
    assert "KVP" not in head
