"""Proxies that make a good server a bad one: what passes through, HTTP and DIMSE, may be changed on the way.

Without a fault they change nothing. A fault is a `Break` of functions, each of which changes what it is given.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import select
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydicom import Dataset

from conformance import pdu
from conformance.dimse import Message as Received
from conformance.dimse import decode, encode
from conformance.multipart import Part, join, split


@dataclass
class Request:
    """An HTTP request on its way in."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    def drop(self, *names: str) -> None:
        """Forget query parameters."""
        self.query = [(name, value) for name, value in self.query if name not in names]

    def rewrite(self, name: str, change: Callable[[str], str]) -> None:
        """Change the values of a query parameter."""
        self.query = [(each, change(value) if each == name else value) for each, value in self.query]


@dataclass
class Reply:
    """An HTTP answer on its way out."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_json(self) -> bool:
        """Whether it holds DICOM JSON."""
        return "json" in self.header("content-type") and bool(self.body)

    def header(self, name: str) -> str:
        """A header's value; empty where it is absent."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")

    def drop(self, name: str) -> None:
        """Forget a header."""
        self.headers = {key: value for key, value in self.headers.items() if key.lower() != name.lower()}

    def objects(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change every JSON object of the body in place; a function that gives a dict replaces it."""
        if not self.is_json:
            return
        if self.header("content-encoding") == "gzip":
            self.body = gzip.decompress(self.body)
            self.drop("content-encoding")
        found = json.loads(self.body)
        many = found if isinstance(found, list) else [found]
        made = [result if isinstance(result := change(each), dict) else each for each in many]
        self.body = json.dumps(made if isinstance(found, list) else made[0], ensure_ascii=False).encode()

    def parts(self, change: Callable[[list[Part]], list[Part]]) -> None:
        """Change the parts of a multipart body."""
        kind = self.header("content-type")
        if self.status != 200 or not kind.startswith("multipart/"):
            return
        made = [
            ([f"{name}: {value}" for name, value in each.headers], each.content)
            for each in change(split(kind, self.body))
        ]
        boundary = kind.split("boundary=")[1].split(";")[0].strip('"').encode()
        body = b""
        for lines, content in made:
            body += b"--" + boundary + b"\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"
        self.body = body + b"--" + boundary + b"--\r\n"


@dataclass
class Message:
    """A DIMSE message on its way."""

    context_id: int
    fields: dict[str, Any]
    raw: bytes | None
    transfer_syntax: str
    abstract_syntax: str
    memory: dict[str, Any]
    """What faults remember of this association."""

    @property
    def name(self) -> str:
        """The kind of message: C-FIND-RSP."""
        return Received(self.context_id, self.fields, [], self.raw, "").name

    @property
    def status(self) -> int:
        """The Status; -1 where there is none."""
        return int(self.fields.get("Status", -1))

    def edit(self, change: Callable[[Dataset], object]) -> None:
        """Change the data set."""
        if self.raw:
            ds = decode(self.raw, self.transfer_syntax)
            change(ds)
            self.raw = encode(ds, self.transfer_syntax)


@dataclass(frozen=True)
class Instead:
    """What goes back to the sender of a message, which nobody else gets to see."""

    messages: tuple[Message, ...]


def _leave(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Break:
    """What a fault does; each function changes its argument in place.

    `request` and `reply` see HTTP; `socket` the bytes that a WebSocket server sends. `ask` and `answer` see DIMSE
    messages of the client and of the server (a False drops the message, a Message or several go back to its sender
    instead). `propose`, `accept` and `reject` see the body of A-ASSOCIATE-RQ, -AC and -RJ, `command` an encoded command
    set of the server. Without `abort` an A-ABORT of the server only closes; with `one_pdu` its messages are one PDU
    each, however long. `old_tls` and `plain` are what a `TlsDoor` lets in that it should not.
    """

    request: Callable[[Request], Reply | None] = _leave
    reply: Callable[[Request, Reply], object] = _leave
    socket: Callable[[bytes], bytes] = bytes
    ask: Callable[[Message], bool | Message | Instead | None] = _leave
    answer: Callable[[Message], bool | Message | Instead | None] = _leave
    propose: Callable[[bytes], bytes] = bytes
    accept: Callable[[bytes], bytes] = bytes
    command: Callable[[bytes], bytes] = bytes
    reject: Callable[[bytes], bytes] = bytes
    abort: bool = True
    one_pdu: bool = False
    old_tls: bool = False
    plain: bool = False


NOTHING = Break()
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class HttpProxy:
    """A breaking proxy in front of an HTTP server on loopback."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._place = (parts.hostname or "", parts.port or 80)
        self.breaking = NOTHING
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _handle(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_OPTIONS = do_PATCH = _handle

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_port}{parts.path}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Upgrade", "").lower() == "websocket":
            self._tunnel(handler)
            return
        parts = urlsplit(handler.path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        request = Request(handler.command, parts.path, query, dict(handler.headers.items()), _body(handler))
        reply = self.breaking.request(request)
        if reply is None:
            plain = request.query == query  # then not a byte of it is touched
            target = request.path + (
                "?" + (parts.query if plain else urlencode(request.query)) if request.query else ""
            )
            reply = self._forward(request, target)
            self.breaking.reply(request, reply)
        handler.send_response_only(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in _HOP:
                handler.send_header(name, value)
        if reply.status not in (204, 304) and request.method != "HEAD":
            handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if request.method != "HEAD" and reply.status not in (204, 304):
            handler.wfile.write(reply.body)

    def _forward(self, request: Request, target: str) -> Reply:
        # A connection of its own for each: one that is kept may be closed by the server while we begin to use it.
        connection = http.client.HTTPConnection(*self._place, timeout=60)
        try:
            connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP | {"expect"}:
                    connection.putheader(name, value)
            if request.body or request.method in ("POST", "PUT"):
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            headers: dict[str, str] = {}
            for name, value in answer.getheaders():
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            return Reply(answer.status, headers, answer.read())
        finally:
            connection.close()

    def _tunnel(self, handler: BaseHTTPRequestHandler) -> None:
        with socket.create_connection(self._place, 60) as upstream:
            head = f"{handler.requestline}\r\n" + "".join(
                f"{name}: {value}\r\n" for name, value in handler.headers.items()
            )
            upstream.sendall(head.encode("latin-1") + b"\r\n")
            thread = threading.Thread(target=_pump, args=(handler.connection, upstream, bytes), daemon=True)
            thread.start()
            _pump(upstream, handler.connection, lambda data: self.breaking.socket(data))
        handler.close_connection = True


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" in handler.headers.get("Transfer-Encoding", "").lower():
        out = b""
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            out += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return out
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def _pump(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(change(data))
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class _Door:
    """A port on loopback; what connects there is served on a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError


class DimseProxy(_Door):
    """A breaking proxy in front of an application entity on loopback; `to` may be set late."""

    def __init__(self, to: tuple[str, int] | None = None) -> None:
        self.to = to
        self.breaking = NOTHING
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        assert self.to is not None
        with client:
            try:
                server = socket.create_connection(self.to, 60)
            except OSError:
                return
            for each in (client, server):  # else every second PDU waits for an acknowledgement
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server:
                line = _Line(self.breaking, client, server)
                thread = threading.Thread(target=line.run, args=(client, server, True), daemon=True)
                thread.start()
                line.run(server, client, False)
                thread.join(60)


@dataclass
class _Line:
    """The two directions of one connection."""

    breaking: Break
    client: socket.socket
    server: socket.socket
    abstract: dict[int, str] = field(default_factory=dict)
    syntaxes: dict[int, str] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        """Hand PDUs on until one side is done."""
        parts: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}
        with contextlib.suppress(OSError, EOFError, struct.error):
            while True:
                head = _exactly(source, 6)
                kind, length = struct.unpack(">BxI", head)
                if kind not in pdu.PDU_NAMES or length > 1 << 26:  # no PDU: on it goes as it is
                    self._put(target, head)
                    while data := source.recv(65536):
                        self._put(target, data)
                    raise EOFError
                body = _exactly(source, length)
                if kind == pdu.P_DATA and self.syntaxes and (out := self._data(body, parts, asking)) is not None:
                    for to, data in out:
                        self._put(to, data)
                    continue
                if kind == pdu.ASSOCIATE_RQ:
                    with contextlib.suppress(Exception):
                        self.abstract = {number: uid for number, uid, _ in pdu.requested(body)[0]}
                    body = self.breaking.propose(body)
                elif kind == pdu.ASSOCIATE_AC:
                    told, body = body, self.breaking.accept(body)
                    self.syntaxes = _agreed(body) | _agreed(told)
                elif kind == pdu.ASSOCIATE_RJ:
                    body = self.breaking.reject(body)
                elif kind == pdu.ABORT and not asking and not self.breaking.abort:
                    raise EOFError
                self._put(target, struct.pack(">BBI", kind, 0, len(body)) + body)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _put(self, to: socket.socket, data: bytes) -> None:
        with self.lock:
            to.sendall(data)

    def _data(self, body: bytes, parts: dict[int, bytearray], asking: bool) -> list[tuple[socket.socket, bytes]] | None:
        """What to send for a P-DATA-TF: nothing until a message is whole; None where it is malformed."""
        out: list[tuple[socket.socket, bytes]] = []
        at, broken = 0, False
        while at < len(body):
            length, number, control = struct.unpack_from(">IBB", body, at)
            broken |= length < 2 or at + 4 + length > len(body)
            if broken:
                return None
            parts[control & 1] += body[at + 6 : at + 4 + length]
            at += 4 + length
            if control & 3 == 3:
                self.memory[f"fields {asking}"] = pdu.decode_command(bytes(parts[1]))[0]
            fields = self.memory.get(f"fields {asking}", {})
            if control & 2 and (not control & 1 or fields.get("CommandDataSetType") == pdu.NO_DATA_SET):
                raw = None if control & 1 else bytes(parts[0])
                out += self._message(number, fields, bytes(parts[1]), raw, asking)
                parts[0], parts[1] = bytearray(), bytearray()
        return out

    def _message(
        self, number: int, fields: dict[str, Any], command: bytes, raw: bytes | None, asking: bool
    ) -> list[tuple[socket.socket, bytes]]:
        syntax, abstract = self.syntaxes.get(number, pdu.IMPLICIT), self.abstract.get(number, "")
        message = Message(number, dict(fields), raw, syntax, abstract, self.memory)
        verdict = (self.breaking.ask if asking else self.breaking.answer)(message)
        there, back = (self.server, self.client) if asking else (self.client, self.server)
        if verdict is False:
            return []
        if isinstance(verdict, Instead):
            return [self._encoded(each, {}, b"", None, back, asking) for each in verdict.messages]
        if isinstance(verdict, Message):
            return [self._encoded(verdict, fields, command, raw, back, asking)]
        return [self._encoded(message, fields, command, raw, there, asking)]

    def _encoded(
        self,
        message: Message,
        fields: dict[str, Any],
        command: bytes,
        raw: bytes | None,
        to: socket.socket,
        asking: bool,
    ) -> tuple[socket.socket, bytes]:
        """A message as it goes to a side; the command set that came stays as it is where nothing of it changed."""
        if message.fields != fields or (message.raw is None) != (raw is None):
            message.fields["CommandDataSetType"] = pdu.NO_DATA_SET if message.raw is None else 1
            known = {key: value for key, value in message.fields.items() if key in pdu.FIELDS}
            known.pop("CommandGroupLength", None)
            command = pdu.encode_command(known)
        if not asking:
            command = self.breaking.command(command)
        room = 1 << 24 if self.breaking.one_pdu else 240  # short enough for every peer of a test
        return to, b"".join(_fragments(message.context_id, command, message.raw, room))


def _agreed(body: bytes) -> dict[int, str]:
    """The transfer syntax of each context that an A-ASSOCIATE-AC accepts."""
    return {number: syntax for number, (result, syntax) in pdu.read_accept(body).results.items() if result == 0}


class TlsDoor(_Door):
    """TLS in front of a port on loopback: 1.2 and 1.3 alone, until a fault lets in more."""

    def __init__(self, to: int, certificate: str, key: str) -> None:
        self._to = to
        self.breaking = NOTHING
        self._strict, self._old = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for tls in (self._strict, self._old):
            tls.load_cert_chain(certificate, key)
        self._strict.minimum_version = ssl.TLSVersion.TLSv1_2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is old is the point
            self._old.minimum_version = ssl.TLSVersion.TLSv1
        self._old.set_ciphers("ALL:@SECLEVEL=0")
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        breaking = self.breaking
        client.settimeout(60)
        with contextlib.suppress(OSError), client:  # a handshake that fails is an OSError, too
            if breaking.plain and client.recv(1, socket.MSG_PEEK) != b"\x16":
                self._join(client)
                return
            with (self._old if breaking.old_tls else self._strict).wrap_socket(client, server_side=True) as secured:
                self._join(secured)

    def _join(self, client: socket.socket) -> None:
        """Hand on what comes from either side until one is done; in one thread, which TLS needs."""
        with socket.create_connection(("127.0.0.1", self._to), 60) as server:
            while True:
                waiting = isinstance(client, ssl.SSLSocket) and client.pending()
                ready = [client] if waiting else select.select([client, server], [], [], 60)[0]
                for each in ready:
                    data = each.recv(65536)
                    if not data:
                        return
                    (server if each is client else client).sendall(data)
                if not ready:
                    return


def _fragments(number: int, command: bytes, raw: bytes | None, room: int) -> list[bytes]:
    out = []
    for data, control in ((command, 1), (raw, 0)):
        if data is not None:
            for at in range(0, len(data) or 1, room):
                last = 2 if at + room >= len(data) else 0
                out.append(pdu.pdu(pdu.P_DATA, pdu.pdv(number, control | last, data[at : at + room])))
    return out


def _exactly(source: socket.socket, count: int) -> bytes:
    out = bytearray()
    while len(out) < count:
        got = source.recv(count - len(out))
        if not got:
            raise EOFError
        out += got
    return bytes(out)


__all__ = [
    "NOTHING",
    "Break",
    "DimseProxy",
    "HttpProxy",
    "Instead",
    "Message",
    "Part",
    "Reply",
    "Request",
    "TlsDoor",
    "join",
]
