"""Every check of the conformance suite that is named here notices the fault that it is there for.

One good server, and proxies that make it a bad one. A check passes without the fault and fails with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import dicom_data
import httpx
import pytest
from conftest import start_server
from dicomweb_server import multipart
from faults.breaking_proxy import NOTHING, DimseProxy, HttpProxy
from faults.planted import Fault
from faults.planted_dimse import DIMSE
from faults.planted_objects import RESULTS
from faults.planted_web import WEB
from faults.planted_web_more import MORE
from faults.planted_web_rest import REST
from pydicom import Dataset
from result_objects import study_with_results

import conformance.checks  # noqa: F401  (registers every check)
from analysis.results import provenance
from conformance.check import REGISTER, Outcome, Result
from conformance.client import Web
from conformance.context import Context, DimseTarget, Options
from conformance.data import Maker, read
from conformance.run import judge
from conformance.scp import Listener

pytestmark = pytest.mark.system

FAULTS = (*WEB, *MORE, *REST, *DIMSE, *RESULTS)

MAKING = ("H", "I", "J", "K", "L", "M", "C59")
"""Checks, or their letters, that make something which may be made once: each gets UIDs of its own."""
STORING = ("F34", "F40")
"""Checks that judge how their data are stored, which therefore has to be done again."""
LASTING = ("dimse data", "dimse listener")
"""What a run learns of the server without asking it anything that a fault may change."""


@dataclass
class Bench:
    """A good server, the proxies before it, and what was stored there once."""

    http: HttpProxy
    dimse: DimseProxy
    back: DimseProxy
    context: Context
    token: str
    server: str
    images: list[Dataset]
    results: list[Dataset]
    good: set[str] = field(default_factory=set)

    def judge(self, identifier: str, fault: Fault | None = None) -> Result:
        """What a check says of the server, with the fault where one is given."""
        base = self.context
        facts = {name: value for name, value in base._facts.items() if name in LASTING}
        web = Web(self.http.base, token=self.token, timeout_s=30)
        maker, options = base.maker, base.options
        corpora = base._corpora
        if identifier[0] in MAKING or identifier in (*MAKING, *STORING):
            maker = Maker(uuid.uuid4().hex[:8])
        if identifier in STORING:
            corpora = {}
        if fault is not None:
            options = replace(options, timeout_s=4, visible_s=1)  # what does not come need not be waited for
            self.http.breaking = self.dimse.breaking = fault.how
            self.back.breaking = fault.back
            if fault.objects is not None:
                facts["results"] = self.spoilt(fault)
        context = replace(
            base, web_or_none=web, maker=maker, findings=[], _facts=facts, options=options, _corpora=corpora
        )
        try:
            result = judge(context, REGISTER.checks[identifier])
        finally:
            self.http.breaking = self.dimse.breaking = self.back.breaking = NOTHING
            web.close()
        base._facts.update({name: value for name, value in context._facts.items() if name in LASTING})
        return result

    def passes(self, identifier: str, *, absent: bool = False) -> None:
        """Assert that the good server passes the check, or has nothing to be judged where `absent`; asked once."""
        if identifier not in self.good:
            result = self.judge(identifier)
            told = f"{identifier} without a fault: {result.outcome} {result.reason} {result.failures}"
            wanted = (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE) if absent else (Outcome.PASSED,)
            assert result.outcome in wanted, told
            self.good.add(identifier)

    def store(self, objects: list[bytes]) -> None:
        """Store at the server, past the proxies."""
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=zzz',
        }
        answer = httpx.post(f"{self.server}/studies", content=multipart(objects, "zzz"), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text

    def spoilt(self, fault: Fault) -> dict[str, list[Dataset]]:
        """The study with results as a server would give it that had made them with this fault."""
        results = [read(provenance.part10(ds)) for ds in self.results]
        assert fault.objects is not None
        fault.objects(results)
        images = [read(dicom_data.part10(ds)) for ds in self.images]
        return {str(self.images[0].StudyInstanceUID): images + results}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack:
        listener = stack.enter_context(Listener(0, "127.0.0.1"))
        back = stack.enter_context(DimseProxy(("127.0.0.1", listener.port)))
        settings = folder / "m3dicom.toml"
        settings.write_text(
            f'[[aes]]\ntitle = "CONFSCU"\nhost = "127.0.0.1"\nport = {back.port}\n'
            'rights = ["query", "read", "store", "process"]\n'
        )
        server = start_server(
            folder / "data",
            arguments=("--config", str(settings)),
            settings={"M3DICOM_CORS_ORIGINS": "https://viewer.example"},
        )
        reading = server.command("token", "create", "--name", "reading", "--rights", "query,read")
        stack.callback(server.stop)
        http = stack.enter_context(HttpProxy(server.dicomweb))
        dimse = stack.enter_context(DimseProxy(server.dimse))
        token = server.token
        target = DimseTarget(server.ready["aet"], "127.0.0.1", dimse.port, "CONFSCU")
        options = Options(
            timeout_s=60, visible_s=60, listen=f"CONFSCU@127.0.0.1:{listener.port}",
            read_only_token=reading.strip().splitlines()[-1],
        )  # fmt: skip
        context = Context(None, target, Maker("planted0"), options)
        context._facts["dimse listener"] = listener
        images, results = study_with_results()
        context.options = replace(options, results=(str(images[0].StudyInstanceUID),))
        bench = Bench(http, dimse, back, context, token, server.dicomweb, images, results)
        bench.store([dicom_data.part10(ds) for ds in images] + [provenance.part10(ds) for ds in results])
        yield bench


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(bench: Bench, fault: Fault) -> None:
    for identifier in fault.checks.split(","):
        bench.passes(identifier, absent=fault.absent)
        result = bench.judge(identifier, fault)
        assert result.outcome is Outcome.FAILED, f"{identifier} did not notice: {result.outcome} {result.reason}"


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 250
    assert {identifier for fault in FAULTS for identifier in fault.checks.split(",")} <= REGISTER.checks.keys()
