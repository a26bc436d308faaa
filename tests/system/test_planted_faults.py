"""Every check of the conformance suite that is named here notices the fault that it is there for.

One good server, and proxies that make it a bad one. A check passes without the fault and fails with it.
"""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import dicom_data
import httpx
import pytest
from certificates import Authority
from conftest import start_server
from dicomweb_server import multipart
from faults.breaking_proxy import NOTHING, Break, DimseProxy, HttpProxy, TlsDoor
from faults.planted import Fault
from faults.planted_dimse import DIMSE
from faults.planted_objects import RESULTS
from faults.planted_services import SERVICES
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

FAULTS = (*WEB, *MORE, *REST, *DIMSE, *SERVICES, *RESULTS)

MAKING = ("H", "I", "J", "K", "L", "M", "C59")
"""Checks, or their letters, that make something which may be made once: each gets UIDs of its own."""
STORING = ("F34", "F40")
"""Checks that judge how their data are stored, which therefore has to be done again."""
SECURED = ("O03", "K26")
"""Checks of TLS, which are made at a door of TLS."""
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
    doors: tuple[TlsDoor, TlsDoor]
    """Before `http` and `dimse`."""
    images: list[Dataset]
    results: list[bytes]
    good: set[tuple[str, Break]] = field(default_factory=set)

    def judge(self, identifier: str, fault: Fault | None = None, ground: Break = NOTHING) -> Result:
        """What a check says of the server, with the fault where one is given, else on that ground."""
        base = self.context
        facts = {name: value for name, value in base._facts.items() if name in LASTING}
        base_url, target = self.http.base, base.dimse
        if identifier in SECURED:
            base_url = f"https://127.0.0.1:{self.doors[0].port}{urlsplit(base_url).path}"
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            target = replace(target, port=self.doors[1].port, tls=tls)
        web = Web(base_url, token=self.token, timeout_s=30)
        maker, options = base.maker, base.options
        corpora = base._corpora
        if identifier[0] in MAKING or identifier in (*MAKING, *STORING):
            maker = Maker(uuid.uuid4().hex[:8])
        if identifier in STORING:
            corpora = {}
        if fault is not None:
            options = replace(options, timeout_s=4, visible_s=0.5)  # what does not come need not be waited for
            if fault.objects is not None:
                facts["results"] = self.spoilt(fault)
        context = replace(
            base, web_or_none=web, dimse_or_none=target, maker=maker, findings=[], _facts=facts, options=options,
            _corpora=corpora,
        )  # fmt: skip
        try:
            self.breaking(ground if fault is None else fault.how, NOTHING if fault is None else fault.back)
            result = judge(context, REGISTER.checks[identifier])
        finally:
            self.breaking(NOTHING, NOTHING)
            web.close()
        base._facts.update({name: value for name, value in context._facts.items() if name in LASTING})
        return result

    def breaking(self, how: Break, back: Break) -> None:
        """Break what passes through all proxies so."""
        for proxy in (self.http, self.dimse, *self.doors):
            proxy.breaking = how
        self.back.breaking = back

    def passes(self, identifier: str, fault: Fault) -> None:
        """Assert that the good server passes the check, or has nothing to be judged where it has to be `absent`.

        Asked once.
        """
        if (identifier, fault.ground) not in self.good:
            result = self.judge(identifier, ground=fault.ground)
            told = f"{identifier} without a fault: {result.outcome} {result.reason} {result.failures}"
            wanted = (Outcome.NOT_SUPPORTED, Outcome.NOT_APPLICABLE) if fault.absent else (Outcome.PASSED,)
            assert result.outcome in wanted, told
            self.good.add((identifier, fault.ground))

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
        results = [read(each) for each in self.results]
        assert fault.objects is not None
        fault.objects(results)
        return {str(self.images[0].StudyInstanceUID): self.images + results}


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
        paper = Authority(folder).vouches_for("door")
        web_port = urlsplit(http.base).port
        assert web_port is not None
        doors = tuple(
            stack.enter_context(TlsDoor(port, str(paper.certificate), str(paper.key)))
            for port in (web_port, dimse.port)
        )
        token = server.token
        target = DimseTarget(server.ready["aet"], "127.0.0.1", dimse.port, "CONFSCU")
        options = Options(
            timeout_s=60, visible_s=60, listen=f"CONFSCU@127.0.0.1:{listener.port}",
            read_only_token=reading.strip().splitlines()[-1],
        )  # fmt: skip
        context = Context(None, target, Maker("planted0"), options)
        context._facts["dimse listener"] = listener
        made, encoded = study_with_results(size=24)
        images, results = [dicom_data.part10(ds) for ds in made], [provenance.part10(ds) for ds in encoded]
        context.options = replace(options, results=(str(made[0].StudyInstanceUID),))
        whole = [read(each) for each in images]
        bench = Bench(http, dimse, back, context, token, server.dicomweb, (doors[0], doors[1]), whole, results)
        bench.store(images + results)
        yield bench


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(bench: Bench, fault: Fault) -> None:
    for identifier in fault.checks.split(","):
        bench.passes(identifier, fault)
        result = bench.judge(identifier, fault)
        assert result.outcome is Outcome.FAILED, f"{identifier} did not notice: {result.outcome} {result.reason}"


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 250
    assert {identifier for fault in FAULTS for identifier in fault.checks.split(",")} <= REGISTER.checks.keys()
