"""Every setting, its default and what it does: one frozen object, from TOML, then `M3DICOM_…` variables.

Only `pacs.server` calls `load`; everything else is handed values. A key nobody knows is an error that names itself.
docs/settings.md is made from the `doc` of each field (a test compares them).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pacs.errors import InvalidInput

PREFIX = "M3DICOM_"
RESULT_FORMS = ("LABELMAP", "OBJ")

T = TypeVar("T")


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class AE:
    """A DICOM application entity that talks to us or is talked to: its title and, where given, all that binds it."""

    title: str
    host: str = _setting("", "where it listens; unless `addresses` are given, also where it calls from")
    port: int = _setting(0, "where it listens; 0 = it is never called")
    rights: tuple[str, ...] = _setting(
        ("query", "read", "store", "process"), "services it may use: query, read, store, process, delete, admin"
    )
    addresses: tuple[str, ...] = _setting((), 'where it may call from: names, addresses, networks like "10.1.0.0/16"')
    tls: bool = _setting(False, "called with TLS, and answered on the TLS door only")
    certificate: str = _setting("", "SHA-256 fingerprint of its TLS certificate, as `openssl x509 -fingerprint` has it")
    other_content: str = _setting("", 'other content under a known UID: "refuse", "quarantine", "replace"')


@dataclass(frozen=True)
class Forward:
    """A destination of the return path and what is sent there by itself: a rule for arrivals and results."""

    name: str
    to: str = _setting("", "AE title of an [[aes]] entry with host and port, or the URL of a DICOMweb root")
    what: str = _setting("results", 'sent by itself: "results" of ours, "all" that arrives, or "nothing" (on demand)')
    modalities: tuple[str, ...] = _setting((), "only these values of Modality; none given = any, here and below")
    sop_classes: tuple[str, ...] = _setting((), "only these SOP Class UIDs")
    sources: tuple[str, ...] = _setting((), "only what came from these AE titles")
    plugins: tuple[str, ...] = _setting((), "only results of these plug-ins")
    commitment: bool = _setting(False, "delivered only once the AE has committed itself to keep it")
    token_file: str = _setting("", "file that holds the bearer token for a DICOMweb root")


@dataclass(frozen=True)
class Retention:
    """What may go, and when. Nothing goes that a Workitem, delivery, storage commitment or person still needs."""

    name: str
    what: str = _setting(
        "study",
        'whole studies ("study"), what was "received" or our own "results" of them, or what is kept aside: "rejected", '
        'replaced "versions", "quarantined"',
    )
    days: int = _setting(0, "older than so many days")
    counted_from: str = _setting(
        "arrival", 'age since the last "arrival" in the study, or since the Study Date: "study"'
    )
    source: tuple[str, ...] = _setting((), "only studies received from these AE titles alone")
    modality: tuple[str, ...] = _setting((), "only studies of these modalities alone")
    above_gb: int = _setting(0, "instead of days: once more gigabytes than this are stored, the oldest studies go")
    down_to_gb: int = _setting(0, "until no more than so many are stored")


@dataclass(frozen=True)
class Rule:
    """What runs by itself, on what, and when. Once a plug-in is in a rule, its own rule is not looked at any more."""

    name: str
    plugin: str = _setting("", "id of the plug-in that runs")
    run: bool = _setting(True, "false: it never runs by itself")
    when: tuple[str, ...] = _setting((), 'tests that all hold, such as "SliceThickness <= 1.5" (docs/tasks.md)')
    sources: tuple[str, ...] = _setting((), "only what came from these AE titles; none given = any, here and below")
    scopes: tuple[str, ...] = _setting((), "only studies of these access scopes")
    parameters: tuple[str, ...] = _setting((), 'such as "threshold_hu = 400"; others keep their defaults')
    priority: str = _setting("MEDIUM", "HIGH, MEDIUM or LOW")
    quiet_s: int = _setting(0, "nothing new came for this long; never less than stable_after_s")
    expect: tuple[str, ...] = _setting(
        (), 'how much has to be there: "300", "2 of ViewPosition = CC", or an attribute such as ImagesInAcquisition'
    )
    wait_s: int = _setting(600, "after the last arrival: so long it waits for what is expected, and for priors")
    late: bool = _setting(True, "what comes late is analysed anew, with all the rest")
    results_of: tuple[str, ...] = _setting((), "runs on results of these plug-ins, not on arrivals")
    priors: int = _setting(0, "earlier studies it takes at most; 0 = one, where the plug-in has an input for it")
    priors_from: tuple[str, ...] = _setting((), "AE titles or [[forward]] names that are asked for earlier studies")
    priors_days: int = _setting(0, "no older than so many days; 0 = any")


@dataclass(frozen=True)
class Settings:
    """The settings of one server or worker. Units are in the names."""

    data: Path = _setting(Path("data"), "Folder for everything kept locally: objects, index, spool.")
    http: str = _setting("127.0.0.1:8080", "HTTP door as HOST:PORT; port 0 takes any free one.")
    dimse: str = _setting("127.0.0.1:11112", "DIMSE door as HOST:PORT; port 0 takes any free one; empty = none.")
    dimse_tls: str = _setting("", "DIMSE door with TLS as HOST:PORT (2762 is the registered one); empty = none.")
    tls_certificate: str = _setting("", "PEM file of our TLS certificate and its chain, for both directions of DIMSE.")
    tls_key: str = _setting("", "PEM file of the certificate's private key, without a passphrase.")
    tls_ca: str = _setting("", "PEM file of the authorities, or self-signed certificates, that peers are believed by.")
    tls_clients: str = _setting("required", 'Certificates of callers on the TLS door: "required" or "optional".')
    dimse_identity: str = _setting(
        "ignore", 'User identities offered by DIMSE peers: "ignore", "check" those that are, "require" one of each.'
    )
    aet: str = _setting("M3DICOM", "Our application entity title, at most 16 characters.")
    aes: tuple[AE, ...] = _setting((), "Known AEs; once any is given, all others are refused. TOML: [[aes]] tables.")
    behind_tls_proxy: bool = _setting(False, "A TLS proxy stands in front of the HTTP door, which may then be open.")
    public_url: str = _setting("", "URL under which clients reach the server, for links in answers; empty = as asked.")
    trusted_proxies: tuple[str, ...] = _setting(
        (), "Addresses and networks of proxies whose Forwarded and X-Forwarded-* headers are believed in such links."
    )
    cors_origins: tuple[str, ...] = _setting(
        (),
        'Origins whose pages may use the DICOMweb service, like "https://viewer.example"; "*" = any, without cookies.',
    )

    objects: str = _setting("files", 'Object store: "files" (under data) or "s3://BUCKET/PREFIX".')
    s3_endpoint: str = _setting("", "S3 endpoint URL; empty = the provider's own.")
    s3_region: str = _setting("us-east-1", "S3 region.")
    s3_sse: str = _setting("", 'Server-side encryption asked of S3: empty, "AES256" or "aws:kms".')
    s3_cache_bytes: int = _setting(1 << 30, "Bytes of the local read cache in front of S3.")
    index: str = _setting("sqlite", 'Index database: "sqlite" (under data) or a postgresql+psycopg:// URL.')
    queue: str = _setting("local", 'Queue: "local" (the task table, polled) or a redis:// or unix:// URL for arq.')

    other_content: str = _setting(
        "refuse", 'Other content under a known SOP Instance UID: "refuse", "quarantine" or "replace"; an AE may differ.'
    )
    rejection_notes: bool = _setting(True, "Rejection notes (Key Objects, PS3.16 CID 7011) hide what they reject.")

    max_object_bytes: int = _setting(4 << 30, "Largest instance that is accepted.")
    max_associations: int = _setting(400, "DIMSE associations at one time.")
    max_associations_per_host: int = _setting(50, "DIMSE associations at one time from one address.")
    association_idle_s: float = _setting(60.0, "An association without a byte for this long is aborted.")
    dimse_processes: int = _setting(
        0, "Processes that serve DIMSE associations; 1 = the server itself, 0 = one for each core, at most 4."
    )
    scrub_per_day: float = _setting(1.0, "Percent of all instances whose stored bytes are verified each day; 0 = none.")
    stable_after_s: float = _setting(10.0, "A study is stable when nothing new came for this long.")
    drain_s: float = _setting(10.0, "How long a stopping server lets requests and associations finish.")
    keep_awake: bool = _setting(
        True,
        "While a client asks again at once and nothing else wants to compute, a processor is kept from sleeping.",
    )

    event_hours: float = _setting(72.0, "A Workitem event that its subscriber did not take for this long is dropped.")
    workitem_days: float = _setting(
        0.0, "COMPLETED and CANCELED Workitems without a deletion lock are removed after this many days; 0 = kept."
    )
    commitment_hours: float = _setting(72.0, "A storage commitment that its asker did not take for this long is dead.")

    workers: int = _setting(1, "Analysis jobs at one time in this process; 0 = none here.")
    device: str = _setting("auto", 'Where arrays are computed: "auto", "cpu" or "gpu".')
    plugin_folder: str = _setting(
        "", "Folder of plug-ins that are commands (`m3dicom plugin add-command`); empty = plugins under data."
    )
    gpus: str = _setting(
        "auto", 'GPUs that tasks are placed on, one a device: "auto" (as nvidia-smi tells), "none", or ID:MEMORY_MB,….'
    )
    worker_metrics: str = _setting("", "Door of a worker for its Prometheus metrics as HOST:PORT; empty = none.")
    result_forms: tuple[str, ...] = _setting(
        (),
        'Results also in younger forms: "LABELMAP" (label maps as Label Map Segmentation), "OBJ" (surfaces as '
        "Encapsulated OBJ with MTL).",
    )
    lease_s: float = _setting(30.0, "A worker that is silent for this long loses its task.")
    max_attempts: int = _setting(
        3, "How often a task is tried whose worker is lost, or its process for want of memory."
    )
    retry_hours: float = _setting(
        4.0, "A task that fails for a cause that may pass (storage away) is tried again for this long."
    )
    decoders: int = _setting(1, "Sandboxed decoding processes; they start when first needed.")

    forward: tuple[Forward, ...] = _setting((), "Where results and studies are sent on to. TOML: [[forward]] tables.")
    forward_give_up_hours: float = _setting(168.0, "A delivery that did not succeed for this long is a dead letter.")

    rules: tuple[Rule, ...] = _setting(
        (), "What runs by itself, besides the plug-ins' own rules. TOML: [[rules]] tables."
    )

    retention: tuple[Retention, ...] = _setting((), "What may be removed, and when. TOML: [[retention]] tables.")

    session_hours: float = _setting(12.0, "A browser login ends after this long.")
    login_link_minutes: float = _setting(60.0, "A login link is good for one use within this time.")

    @property
    def commands(self) -> Path:
        """The folder of plug-ins that are commands."""
        return Path(self.plugin_folder) if self.plugin_folder else self.data / "plugins"

    @property
    def index_url(self) -> str:
        """The SQLAlchemy URL of the index."""
        return f"sqlite:///{self.data.resolve() / 'index.db'}" if self.index == "sqlite" else self.index


def _value(name: str, kind: str, raw: Any) -> Any:
    try:
        match kind:
            case "Path":
                return Path(str(raw)).expanduser()
            case "int" | "float" if not isinstance(raw, bool):
                number = int(raw) if kind == "int" else float(raw)
                if not 0 <= number < float("inf"):
                    raise ValueError(f"{raw!r} must not be negative or without end")
                return number
            case "str" if isinstance(raw, str):
                return raw
            case "bool" if isinstance(raw, bool) or str(raw).lower() in ("true", "false", "1", "0"):
                return str(raw).lower() in ("true", "1")
            case "tuple[str, ...]":
                texts = raw.split(",") if isinstance(raw, str) else raw
                if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                    raise ValueError(f"{raw!r} is no list of texts")
                return tuple(text.strip() for text in texts if text.strip())
            case "tuple[AE, ...]":
                return tuple(_table(AE, "title", entry) for entry in _tables(raw))
            case "tuple[Forward, ...]":
                return tuple(_table(Forward, "name", entry) for entry in _tables(raw))
            case "tuple[Rule, ...]":
                return tuple(_table(Rule, "name", entry) for entry in _tables(raw))
            case "tuple[Retention, ...]":
                return tuple(_table(Retention, "name", entry) for entry in _tables(raw))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"setting {name}: {error}") from error
    raise InvalidInput(f"setting {name}: {raw!r} is no {kind}")


def _tables(raw: Any) -> Any:
    """The tables of a list setting; in a variable they are written as TOML inline tables."""
    return tomllib.loads(f"tables = {raw}")["tables"] if isinstance(raw, str) else raw


def _table(made: Callable[..., T], needed: str, entry: Mapping[str, Any]) -> T:
    """One table of a list setting. Raises TypeError for a key nobody knows, ValueError for a value of another type."""
    known = {f.name: str(f.type) for f in fields(made)}  # type: ignore[arg-type]
    for name, raw in entry.items():
        match known.get(name, ""), raw:
            case ("str", str()) | ("bool", bool()):
                pass
            case ("int", int()) if not isinstance(raw, bool) and 0 <= raw < 65536:
                pass
            case (kind, list() | tuple()) if kind.startswith("tuple") and all(isinstance(each, str) for each in raw):
                pass
            case ("", _):
                raise TypeError(f"unknown key {name!r}; known are {', '.join(known)}")
            case (kind, _):
                raise ValueError(f"{name}: {raw!r} is no {kind}")
    if not entry.get(needed):
        raise TypeError(f"an entry without a {needed}")
    return made(**{name: tuple(raw) if isinstance(raw, list) else raw for name, raw in entry.items()})


def load(
    toml: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Defaults, then the TOML file, then `M3DICOM_…` variables, then `overrides` (the command line; None = not given).

    Raises InvalidInput for a key that does not exist, naming it, and for a value of the wrong type.
    """
    known = {f.name: str(f.type) for f in fields(Settings)}
    chosen: dict[str, Any] = {}
    if toml is not None:
        try:
            chosen |= tomllib.loads(toml.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"settings file {toml}: {error}") from error
    for variable, raw in (environment or {}).items():
        if variable.startswith(PREFIX):
            chosen[variable.removeprefix(PREFIX).lower()] = raw
    chosen |= {name: value for name, value in (overrides or {}).items() if value is not None}
    for name in chosen:
        if name not in known:
            raise InvalidInput(f"unknown setting {name!r}; docs/settings.md lists them all")
    settings = replace(Settings(), **{name: _value(name, known[name], raw) for name, raw in chosen.items()})
    if strange := [form for form in settings.result_forms if form not in RESULT_FORMS]:
        raise InvalidInput(f"setting result_forms: {strange[0]!r} is none of {', '.join(RESULT_FORMS)}")
    if not 1 <= len(settings.aet.strip()) <= 16:
        raise InvalidInput(f"setting aet: {settings.aet!r} must have 1 to 16 characters (PS3.5 6.2, VR AE)")
    return settings
