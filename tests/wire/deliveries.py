"""How an answer is delivered: what comes before it, how it is framed, cut and delayed, and what comes after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise

from tests.wire.answers import ServerAnswer

# The client's timeouts: long enough for a busy machine, short enough for thousands of late answers.
CONNECT_SECONDS = 0.25
STATUS_READ_SECONDS = 0.3
CANCEL_READ_SECONDS = 0.35
# The server continues for so long, to expose a client that ignores its deadline.
DRIP_SECONDS = 2.0


class Clarity(Enum):
    """How much the client can know from a delivery."""

    CLEAR = auto()  # complete, in time, well-formed
    DOUBTFUL = auto()  # complete, but a client may accept it or not
    HIDDEN = auto()  # incomplete, or too late


class End(Enum):
    """What happens to the connection after the answer."""

    KEEP = "kept"
    FIN = "FIN"
    RST = "RST"
    RAGGED = "FIN without close_notify"
    HALF = "half-closed"
    HANG = "left open without a word"


class Next(Enum):
    """What happens on a kept connection until the next request, or at it."""

    ANSWER = "answers the next request"
    FIN_SOON = "FIN while idle"
    RST_SOON = "RST while idle"
    RST_UNREAD = "RST at the next request, before reading it"
    FIN_UNREAD = "FIN at the next request, after reading half of it"
    CLOSE_UNANSWERED = "FIN at the next request, after reading it"
    MUTE = "mute from now on"
    STRAY_SOON = "more bytes while idle"
    STRAY_AT_REQUEST = "an earlier answer at the next request"


@dataclass
class Delivery:
    """Bytes and pauses, in order, and the end."""

    clarity: Clarity
    steps: list[bytes | float]
    end: End
    next: Next = Next.ANSWER
    idle: float = 0.0
    events: list[str] = field(default_factory=list)
    # The connection was closed before the client saw a byte of the answer.
    nothing_came: bool = False
    # By its framing the answer has not ended: no other request may be sent on this connection.
    unfinished: bool = False


def delivery_of(rng: random.Random, answer: ServerAnswer, read_seconds: float, *, tls: bool) -> Delivery:
    kind = rng.choices(
        ("whole", "before", "slow", "odd", "cut", "late", "never", "drip", "long headers"),
        (38, 12, 13, 9, 17, 3, 2, 2, 3),
    )[0]
    if answer.whole_only and kind in ("cut", "odd"):
        kind = "whole"
    if answer.status == 101:
        steps = [_head(answer, []), *_after_switching(rng)]
        return Delivery(Clarity.CLEAR, steps, End.HANG, events=["101"], unfinished=True)
    delivery = _KINDS[kind](rng, answer, read_seconds, tls)
    delivery.steps = _tidied(delivery.steps)
    return delivery


def _tidied(steps: list[bytes | float]) -> list[bytes | float]:
    """Without empty steps, and without pauses after the last byte, when the next request may come."""
    steps = [step for step in steps if step]
    sends = [index for index, step in enumerate(steps) if isinstance(step, bytes)]
    return steps[: sends[-1] + 1] if sends else []


def _after_switching(rng: random.Random) -> list[bytes | float]:
    return [] if rng.random() < 0.5 else [0.02, b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "OK"}']


def _reason(rng: random.Random) -> str:
    return rng.choice((" OK", " Whatever", " ", "", " Not \xe9"))


def _head(answer: ServerAnswer, headers: list[str], version: str = "HTTP/1.1", reason: str = " OK") -> bytes:
    lines = [f"{version} {answer.status}{reason}", *answer.headers, *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class _Framed:
    """The answer in named parts."""

    parts: list[tuple[str, bytes]]
    closes: bool = False
    events: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bytes:
        return b"".join(part for _, part in self.parts)


def _framed(rng: random.Random, answer: ServerAnswer, extra: list[str]) -> _Framed:
    headers = [*extra, "Date: Thu, 26 Sep 2019 06:24:26 GMT"]
    if rng.random() < 0.2:
        headers.append("Set-Cookie: session=other; Path=/")
    if not answer.carries_body:
        return _Framed(_headed(rng, answer, headers))
    framing = rng.choices(("content-length", "chunked", "close-delimited", "HTTP/1.0"), (60, 22, 12, 6))[0]
    if framing == "chunked":
        headers.append("Transfer-Encoding: chunked")
        return _Framed([*_headed(rng, answer, headers), *_chunks(rng, answer.body)], events=[framing])
    if framing == "content-length":
        headers.append(f"Content-Length: {len(answer.body)}")
        return _Framed([*_headed(rng, answer, headers), ("body", answer.body)], events=[framing])
    version = "HTTP/1.0" if framing == "HTTP/1.0" else "HTTP/1.1"
    if version == "HTTP/1.1" or rng.random() < 0.5:
        headers.append("Connection: close")
    return _Framed([*_headed(rng, answer, headers, version), ("body to the end", answer.body)], True, [framing])


def _headed(
    rng: random.Random, answer: ServerAnswer, headers: list[str], version: str = "HTTP/1.1"
) -> list[tuple[str, bytes]]:
    headers = [*answer.headers, *headers]
    rng.shuffle(headers)
    first = f"{version} {answer.status}{_reason(rng)}\r\n".encode("latin-1")
    lines = ("\r\n".join(headers) + "\r\n").encode("latin-1") if headers else b""
    return [("status line", first), ("headers", lines), ("blank line", b"\r\n")]


def _chunks(rng: random.Random, body: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(body):
        size = min(len(body) - at, rng.choice((1, 5, 17, 1000, 8192, 70_000)) if len(body) - at < 500 else 8192)
        spelled = rng.choice((f"{size:x}", f"{size:X}", f"0{size:x}", f"{size:x};name=value"))
        yield "chunk size", f"{spelled}\r\n".encode()
        yield "chunk", body[at : at + size]
        yield "chunk end", b"\r\n"
        at += size
    yield "last chunk", b"0\r\n"
    if rng.random() < 0.3:
        yield "trailers", b"X-Checksum: 0\r\nX-More: 1\r\n"
    yield "end of chunks", b"\r\n"


def _ended(rng: random.Random, answer: ServerAnswer, framed: _Framed, *, tls: bool) -> Delivery:
    """The complete answer, and what may come after it."""
    clarity = Clarity.CLEAR
    if framed.closes:
        end = rng.choices((End.FIN, End.RST, End.RAGGED), (8, 1, 1 if tls else 0))[0]
        if end is not End.FIN:
            clarity = Clarity.DOUBTFUL
        return Delivery(clarity, [framed.whole], end, events=[*framed.events, f"whole, {end.value}"])
    end = rng.choices((End.KEEP, End.FIN, End.RST, End.RAGGED, End.HALF), (80, 8, 4, 2 if tls else 0, 3))[0]
    delivery = Delivery(clarity, [framed.whole], end, events=list(framed.events))
    if end is End.RST:
        delivery.clarity = Clarity.DOUBTFUL  # the reset may reach the client before it has read everything
    if end is not End.KEEP:
        delivery.events.append(f"whole, {end.value}")
        return delivery
    delivery.next = rng.choices(list(Next), (100, 5, 4, 8, 5, 5, 3, 5, 8))[0]
    delivery.idle = rng.choice((0.0, 0.001, 0.005, 0.02))
    if delivery.next is Next.RST_SOON:
        delivery.clarity = Clarity.DOUBTFUL
    repeated = framed.whole if rng.random() < 0.7 else b"\r\nmore\r\n"
    if rng.random() < 0.06 and len(framed.whole + repeated) < 4096:
        # Together with the answer, so that it is there before another request can use the connection.
        delivery.steps = [framed.whole + repeated]
        delivery.events.append("answered twice at once")
    return delivery


def _whole(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    return _ended(rng, answer, _framed(rng, answer, []), tls=tls)


_INFORMATIONAL = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\nLink: </a.js>\r\n\r\n",
    b"HTTP/1.1 103\r\n\r\n",
    b"HTTP/1.1 199 Whatever\r\nContent-Type: text/html\r\n\r\n",
)


def _before(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    """Informational answers (1xx), and then any answer."""
    before: list[bytes | float] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        one = rng.choice(_INFORMATIONAL)
        at = rng.choice((0, 0, rng.randrange(len(one))))
        before += [one[:at], rng.choice((0.0, 0.005)), one[at:], rng.choice((0.0, 0.0, 0.01, 0.05))]
    if rng.random() < 0.15:
        before.append(read_seconds * 1.4)
        late = _whole(rng, answer, read_seconds, tls)
        steps, events = [*before, *late.steps], ["1xx, then nothing in time"]
        return Delivery(Clarity.DOUBTFUL, steps, late.end, late.next, late.idle, events)
    if rng.random() < 0.1:
        flood: list[bytes | float] = []
        pauses = int(DRIP_SECONDS / 0.05)
        for _ in range(pauses):
            flood += [rng.choice(_INFORMATIONAL), 0.05]
        return Delivery(Clarity.HIDDEN, flood, End.FIN, events=["1xx without end"])
    kind = rng.choices((_whole, _slow, _whole if answer.whole_only else _cut), (7, 1, 2))[0]
    delivery = kind(rng, answer, read_seconds, tls)
    delivery.nothing_came = False
    delivery.steps = [*before, *delivery.steps]
    delivery.events.append("1xx before it")
    return delivery


def _slow(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    """In pieces, with pauses well within the deadline."""
    delivery = _whole(rng, answer, read_seconds, tls)
    whole = b"".join(step for step in delivery.steps if isinstance(step, bytes))
    seconds = read_seconds * rng.choice((0.0, 0.1, 0.4))
    if rng.random() < 0.3:
        delivery.steps = [seconds, whole]
        delivery.events.append("delayed")
    elif len(whole) < 400 and rng.random() < 0.3:
        delivery.steps = [step for byte in whole for step in (bytes([byte]), seconds / len(whole))]
        delivery.events.append("byte by byte")
    else:
        cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice((1, 1, 2, 5))))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        delivery.steps = [step for piece in pieces for step in (piece, seconds / len(pieces))]
        delivery.events.append("split")
    return delivery


def _drip(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    """Each pause is within the deadline, but their sum is not."""
    framed = _framed(rng, answer, [])
    whole = framed.whole
    pieces = 12
    at = [len(whole) * index // pieces for index in range(pieces + 1)]
    steps: list[bytes | float] = []
    for a, b in pairwise(at):
        steps += [DRIP_SECONDS / pieces, whole[a:b]]
    return Delivery(Clarity.DOUBTFUL, steps, End.FIN, events=["dripping past the deadline"])


def _late(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    delivery = _whole(rng, answer, read_seconds, tls)
    whole = delivery.steps[0]
    assert isinstance(whole, bytes)
    at = rng.choice((0, 0, rng.randrange(len(whole)), len(whole) - 1))
    late = read_seconds * rng.choice((1.2, 1.5))
    steps: list[bytes | float] = [whole[:at], late, whole[at:]]
    # On a busy machine a client may receive it in time.
    return Delivery(Clarity.DOUBTFUL, steps, delivery.end, delivery.next, delivery.idle, ["too late"])


def _never(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    return Delivery(Clarity.HIDDEN, [], End.HANG, events=["no answer at all"], unfinished=True)


def _long_headers(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    count, size, clarity = rng.choice(
        (
            (60, 400, Clarity.CLEAR),
            (20, 3000, Clarity.CLEAR),
            (150, 50, Clarity.DOUBTFUL),
            (1, 70_000, Clarity.DOUBTFUL),
            (95, 7000, Clarity.DOUBTFUL),
        )
    )
    framed = _framed(rng, answer, [f"X-Long-{index}: {'x' * size}" for index in range(count)])
    delivery = _ended(rng, answer, framed, tls=tls)
    delivery.clarity = max(delivery.clarity, clarity, key=lambda c: c.value)
    delivery.events.append("a large header block")
    return delivery


def _odd(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    """Contradicting or missing framing."""
    body, length = answer.body, len(answer.body)
    clarity = Clarity.DOUBTFUL
    end = rng.choice((End.FIN, End.FIN, End.KEEP))
    if not answer.carries_body or length == 0:
        return _whole(rng, answer, read_seconds, tls)
    at = rng.randrange(length)
    # With a length that is too short, the beginning of the body is read; it may be a complete document.
    begun = Clarity.DOUBTFUL if body[:at].strip() == body.strip() else Clarity.HIDDEN
    name, head, content, clarity = rng.choice(
        (
            ("Content-Length too long", _head(answer, [f"Content-Length: {length + 7}"]), body, Clarity.HIDDEN),
            ("Content-Length too long", _head(answer, [f"Content-Length: {length + 1}"]), body, Clarity.HIDDEN),
            ("Content-Length too long", _head(answer, [f"Content-Length: {2 * length}"]), body, Clarity.HIDDEN),
            ("Content-Length too short", _head(answer, [f"Content-Length: {at}"]), body, begun),
            (
                "two Content-Lengths",
                _head(answer, [f"Content-Length: {length}", f"Content-Length: {at}"]),
                body,
                clarity,
            ),
            (
                "two Content-Lengths",
                _head(answer, [f"Content-Length: {at}", f"Content-Length: {length}"]),
                body,
                clarity,
            ),
            ("two Content-Lengths", _head(answer, [f"Content-Length: {length}, {at}"]), body, clarity),
            ("invalid Content-Length", _head(answer, ["Content-Length: many"]), body, clarity),
            ("invalid Content-Length", _head(answer, ["Content-Length: -1"]), body, clarity),
            (
                "Content-Length and chunks",
                _head(answer, [f"Content-Length: {at}", "Transfer-Encoding: chunked"]),
                b"".join(part for _, part in _chunks(rng, body)),
                clarity,
            ),
            ("chunks announced, none sent", _head(answer, ["Transfer-Encoding: chunked"]), body, Clarity.HIDDEN),
            ("a header without a colon", _head(answer, ["nothing", f"Content-Length: {length}"]), body, clarity),
            ("a folded header", _head(answer, ["X-Folded: a\r\n b", f"Content-Length: {length}"]), body, clarity),
            (
                "bare line feeds",
                _head(answer, [f"Content-Length: {length}"]).replace(b"\r\n", b"\n"),
                body,
                clarity,
            ),
            ("an empty line first", b"\r\n" + _head(answer, [f"Content-Length: {length}"]), body, clarity),
            ("another protocol", _head(answer, [f"Content-Length: {length}"], "HTTP/2"), body, clarity),
            ("another protocol", _head(answer, [f"Content-Length: {length}"], "ICY"), body, clarity),
            ("no HTTP", b"", body, Clarity.HIDDEN),
            ("no HTTP", b"SSH-2.0-OpenSSH_9.6\r\n", b"", Clarity.HIDDEN),
        )
    )
    unfinished = clarity is Clarity.HIDDEN and name != "Content-Length too short"
    return Delivery(clarity, [head + content], end, events=[name], unfinished=unfinished)


def _cut(rng: random.Random, answer: ServerAnswer, read_seconds: float, tls: bool) -> Delivery:
    """Cut within a part. The part is drawn first, so that short parts are as likely as the body."""
    framed = _framed(rng, answer, [])
    parts = [(name, part) for name, part in framed.parts if part]
    name = rng.choice(sorted({name for name, _ in parts}))
    index = rng.choice([index for index, (other, _) in enumerate(parts) if other == name])
    at = rng.choice((0, rng.randrange(len(parts[index][1])), len(parts[index][1]) - 1))
    sent = b"".join(part for _, part in parts[:index]) + parts[index][1][:at]
    # With the terminating chunk's first byte, the body is complete.
    clarity = Clarity.HIDDEN
    if name in ("trailers", "end of chunks") or (name == "last chunk" and at > 0):
        clarity = Clarity.DOUBTFUL
    if name == "body to the end" and parts[index][1][:at].strip() == answer.body.strip():
        clarity = Clarity.DOUBTFUL
    end = rng.choices((End.FIN, End.RST, End.RAGGED, End.HALF, End.HANG), (7, 7, 3 if tls else 0, 1, 1))[0]
    cut = f"cut in the {name}" if sent else "cut before any byte"
    steps: list[bytes | float] = (
        [sent] if rng.random() < 0.7 else [sent[: len(sent) // 2], 0.01, sent[len(sent) // 2 :]]
    )
    return Delivery(
        clarity,
        steps,
        end,
        events=[f"{cut}, {end.value}"],
        nothing_came=not sent and end in (End.FIN, End.RST, End.RAGGED),
        unfinished=True,
    )


_KINDS = {
    "whole": _whole,
    "before": _before,
    "slow": _slow,
    "odd": _odd,
    "cut": _cut,
    "late": _late,
    "never": _never,
    "drip": _drip,
    "long headers": _long_headers,
}


_TOO_EARLY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html><title>400</title></html>",
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
)


def opening(rng: random.Random, *, tls: bool) -> Opening:
    """What happens on a new connection before a request is read."""
    if tls and rng.random() < 0.12:
        return rng.choice(
            (
                Opening("TLS: FIN at once"),
                Opening("TLS: RST at once", rst=True),
                Opening("TLS: FIN after the client's hello", handshake_bytes=0),
                Opening("TLS: RST after the client's hello", handshake_bytes=0, rst=True),
                Opening("TLS: cut in the handshake", handshake_bytes=rng.randint(1, 600), rst=rng.random() < 0.5),
                Opening("TLS: refused by an alert", handshake_says=b"\x15\x03\x03\x00\x02\x02\x28"),
                Opening("TLS: answered in HTTP", handshake_says=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                Opening("TLS: no handshake", hangs=True),
            )
        )
    if tls and rng.random() < 0.15:
        return Opening("TLS: a slow handshake", opens=True, delay=CONNECT_SECONDS * 0.4)
    if rng.random() < 0.05:
        return rng.choice(
            (
                Opening("FIN when accepted", opens=True, reads=0),
                Opening("RST when accepted", opens=True, reads=0, rst=True),
                Opening("FIN in the middle of the request", opens=True, reads=rng.randint(1, 200)),
                Opening("RST in the middle of the request", opens=True, reads=rng.randint(1, 200), rst=True),
                Opening("answered before the request was read", opens=True, reads=1, answers=rng.choice(_TOO_EARLY)),
            )
        )
    return Opening("", opens=True)


@dataclass(frozen=True)
class Opening:
    name: str
    opens: bool = False  # a request can be sent on it
    rst: bool = False
    reads: int | None = None  # bytes of the request, before it closes
    answers: bytes | None = None  # sent before the request was read
    handshake_bytes: int | None = None  # that it sends before it closes
    handshake_says: bytes | None = None
    hangs: bool = False
    delay: float = 0.0
