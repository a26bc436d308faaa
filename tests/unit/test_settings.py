"""Settings: precedence, refusals that name the culprit, and a documented line for each."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pacs.errors import InvalidInput
from pacs.server import documents, possible
from pacs.settings import AE, Settings, load


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    toml = tmp_path / "m3dicom.toml"
    toml.write_text('aet = "FILE"\nworkers = 3\nstable_after_s = 5\n')
    environment = {"M3DICOM_AET": "VARIABLE", "M3DICOM_STABLE_AFTER_S": "0.5", "PATH": "/bin"}
    settings = load(toml, environment, {"aet": "LINE", "http": None})
    assert (settings.aet, settings.stable_after_s, settings.workers) == ("LINE", 0.5, 3)
    assert settings.http == Settings.http


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"M3DICOM_STABEL_AFTER_S": "1"}, "unknown setting 'stabel_after_s'"),
        ({"M3DICOM_WORKERS": "many"}, "setting workers"),
        ({"M3DICOM_STABLE_AFTER_S": "-1"}, "setting stable_after_s"),
        ({"M3DICOM_LEASE_S": "nan"}, "setting lease_s"),
        ({"M3DICOM_AET": "A TITLE OF SEVENTEEN"}, "setting aet"),
        ({"M3DICOM_BEHIND_TLS_PROXY": "maybe"}, "setting behind_tls_proxy"),
    ],
)
def test_refusals_name_the_culprit(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load(None, environment)


def test_aes_from_toml_and_from_a_variable(tmp_path: Path) -> None:
    toml = tmp_path / "m3dicom.toml"
    toml.write_text('[[aes]]\ntitle = "CT1"\nhost = "127.0.0.1"\nport = 104\nrights = ["store"]\n')
    expected = (AE("CT1", "127.0.0.1", 104, rights=("store",)),)
    assert load(toml).aes == expected
    inline = '[{title = "CT1", host = "127.0.0.1", port = 104, rights = ["store"]}]'
    assert load(None, {"M3DICOM_AES": inline}).aes == expected


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{title = "CT1", prot = 104}', "unknown key 'prot'"),
        ('{title = "CT1", port = "104"}', "port: '104' is no int"),
        ('{title = "CT1", port = 70000}', "port: 70000"),
        ('{title = "CT1", rights = "store"}', "rights: 'store'"),
        ('{title = "CT1", tls = 1}', "tls: 1 is no bool"),
        ('{host = "127.0.0.1"}', "without a title"),
    ],
)
def test_an_ae_that_is_mistyped_is_refused_in_words(entry: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load(None, {"M3DICOM_AES": f"[{entry}]"})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"http": "0.0.0.0:8080"}, "without TLS"),
        ({"dimse": "0.0.0.0:11112"}, "configure the AEs"),
        ({"queue": "redis://localhost"}, "PostgreSQL"),
        ({"objects": "floppy"}, "objects"),
    ],
)
def test_unsafe_and_impossible_mixes_are_refused(overrides: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        possible.refuse_impossible(load(None, {}, overrides))


def test_every_setting_is_documented() -> None:
    page = documents.settings_page()
    for setting in fields(Settings):
        assert f"| `{setting.name}` |" in page
        assert setting.metadata["doc"].endswith(".")


def test_generated_pages_are_fresh() -> None:
    assert documents.main("check") == 0


def test_tls_and_peers_that_cannot_be_are_refused() -> None:
    for overrides, words in (
        ({"dimse_tls": "0.0.0.0:2762"}, "tls_certificate"),
        ({"dimse_tls": "nowhere"}, "HOST:PORT"),
        ({"dimse_identity": "perhaps"}, "dimse_identity"),
        ({"aes": [{"title": "CT1", "certificate": "12:34"}]}, "CT1: .* no SHA-256 fingerprint"),
        ({"aes": [{"title": "CT1", "addresses": ["10.0.0.0/99"]}]}, "CT1: .* no host name, address or network"),
        ({"aes": [{"title": "CT1", "host": "10.0.0.0/8"}]}, "CT1: .* give it under addresses"),
        ({"aes": [{"title": "CT1", "other_content": "shred"}]}, "CT1: other_content"),
        ({"aes": [{"title": "CT1", "host": "x", "port": 1, "tls": True}], "tls_ca": "/nowhere.pem"}, "tls_ca"),
    ):
        with pytest.raises(InvalidInput, match=words):
            possible.refuse_impossible(load(None, {}, overrides))
