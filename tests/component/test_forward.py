"""The return path on real archives: rules and requests become deliveries, and every delivery ends told."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import dicom_data
import pytest
from dicomweb_server import serving
from pydicom import Dataset

from pacs.archive import open_archive
from pacs.auth import ALL_RIGHTS, SYSTEM, Auth, Principal, Right
from pacs.dimse.acceptor import Acceptor, serve
from pacs.errors import Forbidden, InvalidInput, NotFound
from pacs.forward import Forward
from pacs.index import deliveries
from pacs.server import compose
from pacs.settings import AE, Settings
from pacs.settings import Forward as Rule
from pacs.stow_client import judged

OPERATOR = Principal("operator", "session", ALL_RIGHTS)


class Clock:
    """Now, moved forward by tests that cannot wait."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Site:
    """An archive of its own with a DIMSE door."""

    def __init__(self, folder: Path, title: str, **settings: object) -> None:
        archive = open_archive(Settings(data=folder, aet=title, **settings))  # type: ignore[arg-type]
        self.archive = archive.with_services(auth=Auth(archive.index, archive.settings.aes))
        self.acceptor: Acceptor | None = None
        self.port = 0

    def open_door(self) -> None:
        title = self.archive.settings.aet
        self.acceptor = serve(self.archive, host="127.0.0.1", port=self.port, ae_title=title)
        self.port = self.acceptor.address[1]

    def close_door(self) -> None:
        if self.acceptor is not None:
            self.acceptor.close(0)
            self.acceptor = None

    def store(self, ds: Dataset, *, result_of: str | None = None, source_ae: str = "") -> None:
        receiving = self.archive.ingest.receive("1.2.840.10008.1.2.1", source_ae=source_ae)
        receiving.write(dicom_data.dataset_bytes(ds))
        prepared = self.archive.ingest.prepare(receiving, principal=SYSTEM, result_of=result_of)
        self.archive.ingest.file([prepared])

    def bytes_of(self, ds: Dataset) -> bytes:
        (location,) = self.archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        return self.archive.retrieve.dataset(location)

    def has(self, ds: Dataset) -> bool:
        try:
            self.bytes_of(ds)
        except NotFound:
            return False
        return True

    def close(self) -> None:
        self.close_door()
        self.archive.close()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Site]:
    """The system that deliveries go to."""
    site = Site(tmp_path / "remote", "PACS")
    site.open_door()
    yield site
    site.close()


Home = Callable[..., tuple[Site, Forward, Clock]]


@pytest.fixture
def home(tmp_path: Path, remote: Site) -> Iterator[Home]:
    """Opens our archive with these rules; the AE PACS is known, and so is one where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = unused.getsockname()[1]
        opened: list[tuple[Site, Forward]] = []

        def opener(*rules: Rule, known: AE | None = None, hours: float = 168) -> tuple[Site, Forward, Clock]:
            aes = (
                AE(title="PACS", host="127.0.0.1", port=remote.port),
                AE(title="NOBODY", host="127.0.0.1", port=nobody),
                *((known,) if known else ()),
            )
            site = Site(tmp_path / "home", "M3DICOM", aes=aes, forward=rules, forward_give_up_hours=hours)
            clock = Clock()
            forward = Forward(site.archive, partial(compose.courier, site.archive), clock=clock)
            opened.append((site, forward))
            return site, forward, clock

        yield opener
        for site, forward in opened:
            forward.close()
            site.close()


def states(forward: Forward) -> dict[str, str]:
    """The state of every delivery by SOP Instance UID and destination."""
    found = forward.listed(OPERATOR, limit=1000)
    return {f"{each['sop_instance_uid']} {each['destination']}": each["state"] for each in found}


def run(forward: Forward, clock: Clock, until: Callable[[], bool], also: Callable[[], None] = lambda: None) -> None:
    """Step until it is so."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, forward.listed(OPERATOR, limit=1000)
        forward.step(clock())
        also()
        time.sleep(0.02)


def all_are(forward: Forward, state: str, number: int) -> bool:
    return list(states(forward).values()) == [state] * number


def test_results_go_where_the_rule_says_and_nothing_else_does(home: Home, remote: Site) -> None:
    site, forward, clock = home(Rule("pacs", "PACS"))
    forward.step(clock())
    plain, result = dicom_data.image(1), dicom_data.image(2)
    site.store(plain)
    site.store(result, result_of="2.25.77")
    run(forward, clock, lambda: all_are(forward, "delivered", 1))
    assert remote.bytes_of(result) == site.bytes_of(result)
    assert not remote.has(plain)


def test_a_rule_is_about_what_happens_once_it_is_there(home: Home) -> None:
    site, forward, clock = home()
    site.store(dicom_data.image(1))
    forward.close()
    site.close()
    site, forward, clock = home(Rule("everything", "PACS", what="all"))
    site.store(dicom_data.image(2))
    run(forward, clock, lambda: all_are(forward, "delivered", 1))
    assert list(states(forward)) == [f"{dicom_data.image(2).SOPInstanceUID} PACS"]


@pytest.mark.parametrize(
    ("rule", "sent"),
    [
        (Rule("r", "PACS", what="all"), {1, 2, 3}),
        (Rule("r", "PACS", what="all", modalities=("mg",)), {2}),
        (Rule("r", "PACS", what="all", sources=("SCANNER",)), {1}),
        (Rule("r", "PACS", what="all", sop_classes=("1.2.840.10008.5.1.4.1.1.2",)), {1, 3}),
        (Rule("r", "PACS", plugins=("bone-surface",)), set()),
    ],
    ids=["all", "modality", "source", "class", "plug-in"],
)
def test_rules_look_at_what_arrives(home: Home, rule: Rule, sent: set[int]) -> None:
    site, forward, clock = home(rule, Rule("last", "NOBODY", what="all"))
    forward.step(clock())
    made = {1: dicom_data.image(1), 2: dicom_data.mammogram(2, SeriesInstanceUID="2.25.4"), 3: dicom_data.image(3)}
    for seed, ds in made.items():
        site.store(ds, source_ae="SCANNER" if seed == 1 else "")
    site.store(dicom_data.image(4), source_ae="PACS")  # never back to where it came from
    site.store(dicom_data.image(5), source_ae="PACS", result_of="2.25.1")
    expected = {f"{made[seed].SOPInstanceUID} PACS" for seed in sent}
    forward.step(clock())
    assert {name for name in states(forward) if name.endswith("PACS")} == expected


def test_news_read_twice_send_nothing_twice(home: Home) -> None:
    site, forward, clock = home(Rule("one", "PACS", what="all"), Rule("two", "PACS", what="all"))
    forward.step(clock())
    site.store(dicom_data.image(1))
    run(forward, clock, lambda: all_are(forward, "delivered", 1))


def test_a_person_may_send_a_study_and_send_it_again(home: Home, remote: Site) -> None:
    site, forward, clock = home()
    images = [dicom_data.image(seed) for seed in range(3)]
    for ds in images:
        site.store(ds)
    study = images[0].StudyInstanceUID
    of_study = [ds for ds in images if ds.StudyInstanceUID == study]
    assert forward.request(OPERATOR, "PACS", study) == len(of_study)
    run(forward, clock, lambda: all_are(forward, "delivered", len(of_study)))
    remote.archive.removal.delete(replace(SYSTEM, rights=ALL_RIGHTS), study)
    assert forward.request(OPERATOR, "PACS", study) == len(of_study)
    run(forward, clock, lambda: all_are(forward, "delivered", len(of_study)))
    assert all(remote.has(ds) for ds in of_study)


def test_who_may_not_read_may_not_send(home: Home) -> None:
    site, forward, _ = home()
    ds = dicom_data.image(1)
    site.store(ds)
    nobody = Principal("x", "token", frozenset({Right.STORE}))
    elsewhere = Principal("x", "token", ALL_RIGHTS, scope="other clinic")
    with pytest.raises(Forbidden):
        forward.request(nobody, "PACS", ds.StudyInstanceUID)
    with pytest.raises(NotFound):
        forward.request(elsewhere, "PACS", ds.StudyInstanceUID)
    with pytest.raises(InvalidInput, match="NOBODY, PACS"):
        forward.request(OPERATOR, "UNKNOWN", ds.StudyInstanceUID)
    with pytest.raises(Forbidden):
        forward.retry(nobody)
    forward.request(OPERATOR, "NOBODY", ds.StudyInstanceUID)
    assert forward.listed(elsewhere, limit=10) == []


def test_a_destination_that_is_away_delays_nobody_and_gets_everything_later(home: Home, remote: Site) -> None:
    site, forward, clock = home(Rule("away", "PACS", what="all"))
    forward.step(clock())
    remote.close_door()
    site.store(dicom_data.image(1))
    run(
        forward, clock, lambda: any(each["attempt"] == 1 for each in forward.listed(OPERATOR, state="pending", limit=9))
    )
    (waiting,) = forward.listed(OPERATOR, limit=9)
    assert "PACS" in waiting["reason"]
    remote.open_door()
    clock.ahead += 3600 * 2  # its pause is over
    run(forward, clock, lambda: all_are(forward, "delivered", 1))
    assert remote.has(dicom_data.image(1))


def test_what_stays_undeliverable_ends_as_a_dead_letter_that_can_be_tried_again(home: Home, remote: Site) -> None:
    site, forward, clock = home()
    ds = dicom_data.image(1)
    site.store(ds)
    remote.close_door()
    forward.request(OPERATOR, "PACS", ds.StudyInstanceUID)
    clock.ahead += 3600 * 24 * 8
    run(forward, clock, lambda: all_are(forward, "dead", 1))
    (letter,) = forward.listed(OPERATOR, state="dead", limit=9)
    assert "PACS" in letter["reason"]
    with site.archive.index.read() as conn:
        assert deliveries.pending_studies(conn, [ds.StudyInstanceUID]) == set()
    remote.open_door()
    assert forward.retry(OPERATOR, [letter["id"] + 1]) == 0
    assert forward.retry(OPERATOR, destination="PACS") == 1
    with site.archive.index.read() as conn:
        assert deliveries.pending_studies(conn, [ds.StudyInstanceUID]) == {ds.StudyInstanceUID}
    clock.ahead += 7200
    run(forward, clock, lambda: all_are(forward, "delivered", 1))


def test_what_is_refused_is_tried_a_few_times_and_says_why(home: Home, tmp_path: Path) -> None:
    strict = Site(tmp_path / "strict", "STRICT", aes=(AE(title="M3DICOM", rights=("query",)),))
    strict.open_door()
    site, forward, clock = home(known=AE(title="STRICT", host="127.0.0.1", port=strict.port), hours=1e9)
    strict.close_door()  # that it was away for long is no refusal
    ds = dicom_data.image(1)
    site.store(ds)
    forward.request(OPERATOR, "STRICT", ds.StudyInstanceUID)

    def later() -> None:
        clock.ahead += 4000

    def tried(often: int) -> bool:
        (found,) = forward.listed(OPERATOR, limit=9)
        return found["attempt"] >= often and found["state"] == "pending"

    run(forward, clock, lambda: tried(9), later)
    (away,) = forward.listed(OPERATOR, limit=9)
    strict.open_door()
    run(forward, clock, lambda: all_are(forward, "dead", 1), later)
    (letter,) = forward.listed(OPERATOR, state="dead", limit=9)
    assert letter["attempt"] == away["attempt"] + 8
    assert "0124H" in letter["reason"]
    strict.close()


def test_what_a_crash_left_under_way_is_sent_again(home: Home, remote: Site) -> None:
    site, forward, clock = home()
    ds = dicom_data.image(1)
    site.store(ds)
    forward.request(OPERATOR, "PACS", ds.StudyInstanceUID)
    now = clock()
    claimed = site.archive.index.transact(
        lambda conn: deliveries.claim(conn, "PACS", "token of the dead", now + 1, now + 60, 10)
    )
    assert [row.state for row in claimed] == ["sending"]
    clock.ahead += 61  # its lease is over
    run(forward, clock, lambda: all_are(forward, "delivered", 1))
    assert remote.has(ds)


def test_an_instance_removed_or_corrupt_here_ends_told_and_the_others_go(home: Home, remote: Site) -> None:
    site, forward, clock = home()
    images = [dicom_data.image(seed, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4") for seed in range(3)]
    for ds in images:
        site.store(ds)
    remote.close_door()
    forward.request(OPERATOR, "PACS", "1.2.3")
    site.archive.removal.delete(replace(SYSTEM, rights=ALL_RIGHTS), "1.2.3", "1.2.3.4", images[0].SOPInstanceUID)
    remote.open_door()
    clock.ahead += 7200
    run(forward, clock, lambda: sorted(states(forward).values()) == ["dead", "delivered", "delivered"])
    (letter,) = forward.listed(OPERATOR, state="dead", limit=9)
    assert letter["sop_instance_uid"] == images[0].SOPInstanceUID
    assert "stored" in letter["reason"]


def test_delivered_means_committed_where_that_is_asked(home: Home, remote: Site) -> None:
    site, forward, clock = home(Rule("safe", "PACS", what="all", commitment=True))
    forward.step(clock())
    site.store(dicom_data.image(1))
    committing = compose.committing(remote.archive)
    try:
        run(forward, clock, lambda: all_are(forward, "delivered", 1), lambda: committing.step(time.time()))
    finally:
        committing.close()
    (delivery,) = forward.listed(OPERATOR, limit=9)
    assert delivery["reason"] == "committed"


def test_what_is_not_committed_is_sent_again(home: Home, remote: Site) -> None:
    site, forward, clock = home(Rule("safe", "PACS", what="all", commitment=True))
    forward.step(clock())
    ds = dicom_data.image(1)
    site.store(ds)
    run(forward, clock, lambda: bool({"sent"} & set(states(forward).values())))
    remote.archive.removal.delete(replace(SYSTEM, rights=ALL_RIGHTS), ds.StudyInstanceUID)  # before it could verify it
    committing = compose.committing(remote.archive)

    def also() -> None:
        committing.step(time.time())
        clock.ahead += 60

    try:
        run(forward, clock, lambda: all_are(forward, "delivered", 1), also)
    finally:
        committing.close()
    assert remote.has(ds)


def test_a_dicomweb_root_is_a_destination_too(home: Home, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    images = [dicom_data.image(seed) for seed in range(4)]
    with serving(tmp_path / "web") as web:
        site, forward, clock = home(Rule("cloud", web.url, what="all", token_file=str(token)))
        forward.step(clock())
        for ds in images:
            site.store(ds)
        run(forward, clock, lambda: all_are(forward, "delivered", 4))
        for ds in images:
            (location,) = web.archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID, None, ds.SOPInstanceUID)
            assert web.archive.retrieve.dataset(location) == site.bytes_of(ds)


def test_a_dicomweb_root_without_room_is_asked_again_later() -> None:
    failed = {"A": 0xA700, "B": 0xA7FF, "C": 0xC000, "D": 0x0110}
    items = [
        {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
        for uid, reason in failed.items()
    ]
    raw = json.dumps({"00081198": {"vr": "SQ", "Value": items}}).encode()
    verdicts = [outcome.verdict for outcome in judged([*failed, "E"], 202, raw, "https://pacs.example")]
    assert verdicts == ["later", "later", "refused", "refused", "later"]


def test_rules_that_cannot_be_are_refused_in_words(home: Home) -> None:
    for rules, why in (
        ((Rule("a", "UNKNOWN"),), "neither a URL"),
        ((Rule("a", "PACS"), Rule("a", "PACS")), "given twice"),
        ((Rule("a", "PACS", what="some"),), "what must be"),
        ((Rule("a", "https://x/dicom-web", commitment=True),), "over DIMSE only"),
    ):
        with pytest.raises(InvalidInput, match=why):
            home(*rules)
