"""An archive on an S3 server that fails in every way there is: what was acknowledged is there, and nothing hangs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from dicomweb_server import Web, serving
from dimse_client import CT, EXPLICIT, Association
from faults.load import STUDY, Load, check, dataset_of, uid, visible
from faults.proxy import Proxy, sometimes
from servers import S3Server

from pacs.auth import Auth
from pacs.dimse.acceptor import Acceptor, serve
from pacs.storage.s3 import S3Store

DEADLINE_S = 3.0
PROMISED = 25
"""How many instances are stored under each fault."""


@pytest.fixture(scope="module")
def proxy(rclone_server: S3Server) -> Iterator[Proxy]:
    port = urlsplit(rclone_server.endpoint).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def doors(
    proxy: Proxy, rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Web, Acceptor]]:
    """Both doors of an archive whose objects are behind the proxy; there is no read cache to hide behind."""
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", rclone_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", rclone_server.secret_key)
        patch.setitem(S3Store.__init__.__kwdefaults__, "deadline_s", DEADLINE_S)
        objects = f"s3://{rclone_server.bucket}/{folder.name}"
        with serving(folder / "data", objects=objects, s3_endpoint=proxy.endpoint, s3_cache_bytes=0) as web:
            archive = web.archive.with_services(auth=Auth(web.archive.index))
            acceptor = serve(archive, host="127.0.0.1", port=0, ae_title="M3DICOM")
            yield web, acceptor
            acceptor.close(0)


_firsts = itertools.count(0, 100_000)


@pytest.fixture
def load() -> Load:
    return Load(dimse=2, stow=1, sizes=(64, 200), first=next(_firsts))


@pytest.fixture(autouse=True)
def healed(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.fault = None


@pytest.mark.parametrize("name", ["503", "lost", "cut", "reset", "short"])
def test_what_is_acknowledged_under_a_fault_is_there(
    proxy: Proxy, doors: tuple[Web, Acceptor], load: Load, name: str
) -> None:
    web, acceptor = doors
    proxy.fault = sometimes(name, 0.3, methods=("PUT", "HEAD"))
    load.start(acceptor.address, web.url, "none")
    load.wait(PROMISED)
    load.stop()
    assert proxy.struck[name] > 0
    proxy.fault = None
    assert check(web.client, load.book) >= PROMISED
    assert load.book.answers.keys() <= {"A700H", "503"}
    load.resend(web.client, load.book.sent)
    assert check(web.client, load.book) == len(load.book.sent)


@pytest.mark.parametrize("name", ["hang", "503"])
def test_a_store_that_never_answers_is_told_within_the_deadline(
    proxy: Proxy, doors: tuple[Web, Acceptor], load: Load, name: str
) -> None:
    web, acceptor = doors
    before = len(list(web.archive.store.spool_dir.iterdir()))
    proxy.fault = sometimes(name, 1.0)
    statuses: list[int] = []

    def c_store() -> None:
        with Association(acceptor.address, contexts=((CT, (EXPLICIT,)),), timeout=60) as assoc:
            name, file = load.new(next(_firsts))
            statuses.append(assoc.store(CT, name, dataset_of(file))[0x0900])

    sender = threading.Thread(target=c_store)
    sender.start()
    _, file = load.new(next(_firsts))
    answer = load.post(web.client, [file])
    sender.join(60)
    assert statuses == [0xA700]
    assert answer.status_code == 503
    assert len(list(web.archive.store.spool_dir.iterdir())) == before
    proxy.fault = None
    assert check(web.client, load.book) == 0
    load.resend(web.client, load.book.sent)
    assert check(web.client, load.book) == 2


@pytest.mark.parametrize("name", ["corrupt", "short", "stall"])
def test_bytes_that_went_bad_on_the_way_are_never_served(
    proxy: Proxy, doors: tuple[Web, Acceptor], load: Load, name: str
) -> None:
    web, _ = doors
    study = next(_firsts)
    sent = dict([load.new(study)])
    load.resend(web.client, sent)
    proxy.fault = sometimes(name, 1.0, methods=("GET",))
    good = 0
    for instance in sent:
        path = f"/studies/{uid(STUDY, study)}/series/{load.series(instance)}/instances/{instance}"
        try:
            answer = web.get(path, accept="application/dicom; transfer-syntax=*")
        except httpx.HTTPError:  # broken off half way: nobody takes that for the whole
            continue
        if answer.status_code == 200:
            assert dataset_of(answer.content) == dataset_of(load.file(instance))
            good += 1
        else:
            assert answer.status_code >= 500
    assert good == 0, "the fault did not strike"
    proxy.fault = None
    assert visible(web.client, uid(STUDY, study)) == {each: load.book.sent[each] for each in sent}
