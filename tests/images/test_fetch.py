"""Fetching from hostile web and name servers, and data URLs.

A test policy allows the server's address, 127.0.0.1. For any other address, the interpreter's audit
events prove that no connection was opened.
"""

import asyncio
import base64
import gzip
import re
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from ssrfguard import Policy

from kontext.address_policy import address_policy
from kontext.errors import SourceError
from kontext.images.decode_pool import DecodePool
from kontext.images.fetch import FetchLimits, ImageFetcher
from kontext.settings import Settings
from tests.support.hostile_server import (
    Answer,
    ConnectionLog,
    HostileServer,
    Names,
    Row,
    after,
    body,
    head,
    redirect,
    repeats,
    sends,
    stalls,
)
from tests.support.images import encoded, jpeg_with_scans, plain, png_claiming
from tests.support.s3_server import self_signed

PNG = encoded(plain(), "PNG")
LIMITS = FetchLimits(seconds=10, max_bytes=50_000)
HURRY = FetchLimits(seconds=0.3, max_bytes=50_000)
BOOK: dict[str, list[str] | list[list[str]]] = {"public.example": ["127.0.0.1"]}


@pytest.fixture(scope="session")
def audit() -> ConnectionLog:
    """The audit hook of this process, of which there can be only one."""
    return ConnectionLog()


@pytest.fixture
def connection_log(audit: ConnectionLog) -> ConnectionLog:
    """The addresses that this test connects to."""
    audit.clear()
    return audit


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    """A server that has one good image."""
    async with HostileServer({"/good": body(PNG)}) as running:
        yield running


def allowing(server: HostileServer, *networks: str) -> Policy:
    """Return production's policy with those networks and the server's port allowed too."""
    return replace(
        address_policy(Settings.load()),
        allowed_networks=tuple(ip_network(network) for network in networks),
        allowed_ports=frozenset({80, 443, server.port}),
    )


def source_of(
    server: HostileServer, limits: FetchLimits = LIMITS, names: Names | None = None
) -> ImageFetcher:
    """Return a fetcher that may connect to 127.0.0.1 on the server's port, and nowhere else."""
    return ImageFetcher(allowing(server, "127.0.0.1/32"), limits, names or Names(BOOK))


async def refusal(source: ImageFetcher, url: str) -> str:
    """Return the sentence that refuses `url`: one line, and nothing private in it."""
    async with asyncio.timeout(30):
        with pytest.raises(SourceError) as caught:
            await source.fetch(url)
    sentence = str(caught.value)

    assert len(sentence.splitlines()) == 1
    assert sentence.startswith("Invalid image")
    assert not re.search(r"hunter2|token|Traceback|Error|/bad|/good", sentence)
    if ".example:" in url and "@" not in url:
        assert not re.search(r"\d+\.\d+\.\d+|::", sentence)
    return sentence


BROKEN = "broke off its answer or sent an invalid one"
TOO_SLOW = "did not deliver the image within 0.3 seconds"

CHUNKED = head(transfer_encoding="chunked")
BOMB = gzip.compress(bytes(50_000_000))

FLOODS = {
    "an endless body": (repeats(head(), bytes(65_536)), "sent more than 0.05 MB"),
    "an endless chunked body": (
        repeats(CHUNKED, b"10000\r\n" + bytes(65_536) + b"\r\n"),
        "sent more than 0.05 MB",
    ),
    "an endless body of tiny chunks": (
        repeats(CHUNKED, b"1\r\nx\r\n" * 10_000),
        "sent more than 0.05 MB",
    ),
    "a declared length beyond the cap": (
        stalls(head(content_length=50_001)),
        "sent more than 0.05 MB",
    ),
    "one byte beyond the cap": (body(bytes(50_001)), "sent more than 0.05 MB"),
    "a gzip bomb": (body(BOMB, content_encoding="gzip"), "sent a compressed answer"),
    "a gzip bomb in a deflate bomb": (
        body(BOMB, content_encoding="gzip, deflate"),
        "sent a compressed answer",
    ),
    "a compressed image": (
        body(gzip.compress(PNG), content_encoding="br"),
        "sent a compressed answer",
    ),
}

LIES = {
    "a length too large": sends(head(content_length=9_999), PNG),
    "a negative length": sends(head(content_length=-1), PNG),
    "a length that is no number": sends(head(content_length="many"), PNG),
    "a length of 5000 digits": sends(head(content_length="9" * 5000), PNG),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "a chunk size that is no number": sends(CHUNKED, b"many\r\n" + PNG),
    "a chunk cut off": sends(CHUNKED, b"ffff\r\n" + PNG),
    "an endless chunk size": repeats(CHUNKED, b"0" * 65_536),
    "a connection closed at once": sends(b""),
    "a connection closed in its head": sends(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "a bare image": sends(PNG),
    "another protocol": sends(head("101 Switching Protocols")),
    "a status that is no number": sends(b"HTTP/1.1 OK 200\r\n\r\n", PNG),
    "a head without end": repeats(b"HTTP/1.1 200 OK\r\n", b"X-Field: y\r\n" * 1000),
    "a field without end": repeats(b"HTTP/1.1 200 OK\r\nX-Field: ", b"y" * 65_536),
    "control characters in its head": sends(b"HTTP/1.1 200 OK\r\nX: \x00\x1b[2J\r\n\r\n", PNG),
    "an unknown transfer encoding": sends(head(transfer_encoding="gzip"), PNG),
}

STALLS = {
    "silence": stalls(),
    "a dripping head": repeats(b"HTTP/1.1 200 OK\r\n", b"X-Drip: y\r\n", 0.05),
    "interim answers without end": repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "interim answers in a flood": repeats(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 500),
    "a head without a body": stalls(head(content_length=len(PNG))),
    "a dripping body": repeats(head(content_length=49_000), b"x", 0.05),
    "a body that stops": stalls(head(content_length=len(PNG)) + PNG[:-1]),
    "a dripping redirect": repeats(b"HTTP/1.1 302 Found\r\nLocation: /good\r\n", b"X: y\r\n", 0.05),
}

STATUSES = {
    status: body(PNG, f"{status} Whatever")
    for status in (201, 204, 206, 304, 401, 404, 429, 500, 503)
}

NOT_AN_IMAGE = "not a JPEG, PNG, WebP, AVIF or GIF image"

BODIES = {
    "nothing": (b"", NOT_AN_IMAGE),
    "HTML": (b"<!doctype html><p>Not found", NOT_AN_IMAGE),
    "SVG": (
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        NOT_AN_IMAGE,
    ),
    "BMP": (encoded(plain(), "BMP"), NOT_AN_IMAGE),
    "a gzip file": (gzip.compress(PNG), NOT_AN_IMAGE),
    "HTML before a GIF": (
        b"<script>" + encoded(plain(), "GIF"),
        NOT_AN_IMAGE,
    ),
    "half a PNG": (PNG[: len(PNG) // 2], "the file is damaged or truncated"),
    "half a JPEG": (encoded(plain(256, 256), "JPEG")[:-40], "the file is damaged or truncated"),
    "a decompression bomb": (
        encoded(plain(10_000, 10_000, 1, "1"), "PNG"),
        "at most 40 megapixels, got 10000*10000",
    ),
    "a claim of 3.6 gigapixels": (png_claiming(60_000, 60_000), "more than 40 megapixels"),
    "a progressive-scan bomb": (jpeg_with_scans(506), "at most 64 JPEG scans, got 506"),
    "one pixel": (
        encoded(plain(1, 1), "GIF"),
        "sides must be between 16 and 10000 pixels, got 1*1",
    ),
}

CASES = [
    *(pytest.param(LIMITS, *case, id=f"flood: {name}") for name, case in FLOODS.items()),
    *(pytest.param(LIMITS, answer, BROKEN, id=f"lie: {name}") for name, answer in LIES.items()),
    *(
        pytest.param(HURRY, answer, TOO_SLOW, id=f"stall: {name}")
        for name, answer in STALLS.items()
    ),
    *(
        pytest.param(LIMITS, answer, f"answered {status}", id=f"status: {status}")
        for status, answer in STATUSES.items()
    ),
    pytest.param(LIMITS, sends(head("302 Found")), "answered 302", id="a redirect to nowhere"),
]


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(("limits", "answer", "reason"), CASES)
async def test_a_hostile_answer_is_one_sentence(
    server: HostileServer, limits: FetchLimits, answer: Answer, reason: str
) -> None:
    """The sentence names the host and the reason, and the next image is fetched."""
    server.answers["/bad"] = answer

    sentence = await refusal(source_of(server, limits), server.url("/bad"))

    assert sentence.startswith(f"Invalid image URL: public.example {reason}")
    assert (await source_of(server).fetch(server.url("/good"))).size == (64, 48)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("content", "reason"), [pytest.param(*case, id=name) for name, case in BODIES.items()]
)
async def test_a_hostile_body_is_one_sentence(
    server: HostileServer, content: bytes, reason: str
) -> None:
    """The content decides, not the declared type."""
    server.answers["/bad"] = body(content, content_type="image/png")
    source = source_of(server)

    assert await refusal(source, server.url("/bad")) == f"Invalid image: {reason}"
    assert (await source.fetch(server.url("/good"))).size == (64, 48)


async def test_a_crash_of_the_decoder_is_one_sentence(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are decoded in a child process, so that the worker survives the crash."""
    decoders = DecodePool()
    source = ImageFetcher(allowing(server, "127.0.0.1/32"), LIMITS, Names(BOOK), decoders.decode)
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with that
        assert await refusal(source, server.url("/good")) == "Invalid image: its decoder crashed"

    assert (await source.fetch(server.url("/good"))).size == (64, 48)
    decoders.close()


@pytest.mark.parametrize(("pixels", "expected"), [(None, (512, 256)), (128 * 64, (256, 128))])
async def test_an_image_is_decoded_no_larger_than_needed(
    server: HostileServer, pixels: int | None, expected: tuple[int, int]
) -> None:
    """A JPEG is decoded at a reduced size, and faster, if the number of pixels needed is given."""
    server.answers["/large"] = body(encoded(plain(512, 256), "JPEG"))

    assert (await source_of(server).fetch(server.url("/large"), pixels)).size == expected


GOOD = {
    "chunked": sends(CHUNKED, b"%x\r\n" % len(PNG) + PNG + b"\r\n0\r\n\r\n"),
    "up to the end of the connection": sends(head(), PNG),
    "uncompressed by name": body(PNG, content_encoding="identity"),
    "of no declared type": body(PNG),
    "of a wrong declared type": body(PNG, content_type="text/html"),
    "with a length too small for its tail": sends(head(content_length=len(PNG)), PNG, bytes(9)),
    "in two late parts": after(0.1, sends(head(content_length=len(PNG)), PNG)),
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in GOOD.items()])
async def test_an_ordinary_answer_is_fetched(server: HostileServer, answer: Answer) -> None:
    """The limits refuse no response of an ordinary server."""
    server.answers["/odd"] = answer

    assert (await source_of(server).fetch(server.url("/odd"))).size == (64, 48)


async def test_a_request_says_who_asks(server: HostileServer) -> None:
    """The request names its User-Agent, asks for no compression, and has no referrer or cookie."""
    server.answers["/good"] = body(PNG, set_cookie="id=1; Path=/")
    source = source_of(server)

    await source.fetch(server.url("/good"))
    await source.fetch(server.url("/good"))

    for request in server.requests:
        fields = dict(line.lower().split(": ", 1) for line in request.splitlines()[1:] if line)
        assert set(fields) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
        assert fields["accept-encoding"] == "identity"
        assert fields["user-agent"].startswith("kontext/")


async def test_the_default_limits_are_the_documented_ones(server: HostileServer) -> None:
    """Fifteen seconds and 20 MB: a declared length of a byte more is refused at once."""
    server.answers["/bad"] = stalls(head(content_length=20_000_001))
    source = source_of(server, FetchLimits())

    assert FetchLimits().seconds == 15
    assert (await refusal(source, server.url("/bad"))).endswith("sent more than 20 MB")


# --- redirects ---


async def test_five_redirects_are_followed(server: HostileServer) -> None:
    """The fifth redirect may still lead to the image."""
    for hop in range(5):
        server.answers[f"/{hop}"] = redirect(f"/{hop + 1}" if hop < 4 else "/good")

    assert (await source_of(server).fetch(server.url("/0"))).size == (64, 48)


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize("loop", [False, True], ids=["a chain", "a loop"])
async def test_six_redirects_are_refused(server: HostileServer, loop: bool) -> None:
    """The sixth is not even requested."""
    for hop in range(6):
        server.answers[f"/bad{hop}"] = redirect("/bad0" if loop else f"/bad{hop + 1}")
    server.answers["/bad6"] = body(PNG)

    assert await refusal(source_of(server), server.url("/bad0")) == (
        "Invalid image URL: public.example redirects more than 5 times"
    )
    assert server.connections == 6


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            repeats(head("302 Found", location="/good"), bytes(65_536)), id="an endless body"
        ),
        pytest.param(redirect("/good", BOMB), id="a body of 50 kB that is 50 MB unpacked"),
        pytest.param(stalls(head("302 Found", location="/good")), id="a body that never comes"),
    ],
)
async def test_the_body_of_a_redirect_is_not_read(server: HostileServer, answer: Answer) -> None:
    """Limits on the last response's body alone would not protect from one before it."""
    server.answers["/moved"] = answer

    assert (await source_of(server).fetch(server.url("/moved"))).size == (64, 48)


@pytest.mark.hostile("fetches")
async def test_the_deadline_is_for_all_redirects_together(server: HostileServer) -> None:
    """Each redirect is answered in time, but all of them together take too long."""
    for hop in range(5):
        server.answers[f"/bad{hop}"] = after(0.15, redirect(f"/bad{hop + 1}"))
    server.answers["/bad5"] = body(PNG)

    assert await refusal(source_of(server, HURRY), server.url("/bad0")) == (
        "Invalid image URL: public.example did not deliver the image within 0.3 seconds"
    )


NOT_PUBLIC = "redirects to a URL that is not a public address"
NOT_ALLOWED = "redirects to a URL that is refused: only http and https to a public host"

REDIRECTS = {
    "metadata": ("http://169.254.169.254/latest/meta-data/", NOT_PUBLIC),
    "private": ("http://10.0.0.1/", NOT_PUBLIC),
    "private without a scheme": ("//192.168.0.1/", NOT_PUBLIC),
    "another loopback": ("http://127.0.0.2/", NOT_PUBLIC),
    "IPv6 loopback": ("http://[::1]/", NOT_PUBLIC),
    "IPv4-mapped": ("http://[::ffff:10.0.0.1]/", NOT_PUBLIC),
    "a private name": ("http://intranet.example/", NOT_PUBLIC),
    "an unknown name": ("http://unknown.example/", NOT_PUBLIC),
    "a file": ("file:///etc/passwd", NOT_ALLOWED),
    "ftp": ("ftp://public.example/image.png", NOT_ALLOWED),
    "gopher": ("gopher://public.example/_", NOT_ALLOWED),
    "userinfo": ("http://user:word@public.example/", NOT_ALLOWED),
    "another port": ("http://public.example:22/", NOT_ALLOWED),
    "an overlong URL": ("/" + "x" * 9000, NOT_ALLOWED),
    "a decimal host": ("http://2130706433/", NOT_ALLOWED),
    "a malformed URL": ("http://[::1/", BROKEN),
    "a malformed name": ("http://xn--a/", ""),
}


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    ("location", "reason"), [pytest.param(*case, id=name) for name, case in REDIRECTS.items()]
)
async def test_a_redirect_is_checked_like_any_url(
    server: HostileServer, connection_log: ConnectionLog, location: str, reason: str
) -> None:
    """It is refused without a connection, and the sentence names only the requested host."""
    server.answers["/bad"] = redirect(location)
    source = source_of(server, names=Names(BOOK | {"intranet.example": ["10.0.0.7"]}))

    sentence = await refusal(source, server.url("/bad"))

    assert sentence.startswith(f"Invalid image URL: public.example {reason}")
    assert set(connection_log.addresses) == {("127.0.0.1", server.port)}
    assert not re.search(r"intranet|unknown|169\.254|passwd", sentence)


# --- addresses ---

PRIVATE = {
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "10/8": "10.0.0.1",
    "172.16/12": "172.31.255.254",
    "192.168/16": "192.168.1.1",
    "loopback": "127.0.0.1",
    "the end of loopback": "127.255.255.254",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "ECS metadata": "169.254.170.2",
    "carrier-grade NAT": "100.64.0.1",
    "Alibaba metadata": "100.100.100.200",
    "Oracle metadata": "192.0.0.192",
    "Azure's platform": "168.63.129.16",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:a9fe:a9fe",
    "IPv4-compatible": "::127.0.0.1",
    "NAT64": "64:ff9b::7f00:1",
    "NAT64 metadata": "64:ff9b::169.254.169.254",
    "NAT64 of Azure's platform": "64:ff9b::168.63.129.16",
    "local NAT64": "64:ff9b:1::7f00:1",
    "6to4": "2002:7f00:1::",
    "6to4 of a private address": "2002:a00:1::1",
    "Teredo": "2001:0:7f00:1::f5ff:fffe",
    "unique-local": "fd12:3456:789a::1",
    "IPv6 metadata": "fd00:ec2::254",
    "IPv6 link-local": "fe80::1",
    "site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "IPv6 documentation": "2001:db8::1",
}


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize("named", [False, True], ids=["written", "resolved"])
@pytest.mark.parametrize(
    "address", [pytest.param(address, id=name) for name, address in PRIVATE.items()]
)
async def test_a_private_address_is_never_connected_to(
    server: HostileServer, connection_log: ConnectionLog, address: str, named: bool
) -> None:
    """The worker does not connect to it by address or by a public name, though a server listens."""
    literal = f"[{address}]" if ip_address(address).version == 6 else address
    source = ImageFetcher(allowing(server), LIMITS, Names({"rebound.example": [address]}))

    url = server.url("/good", "rebound.example" if named else literal)
    sentence = await refusal(source, url)

    host = "rebound.example" if named else str(address)
    assert sentence == f"Invalid image URL: {host} is not a public address"
    assert connection_log.addresses == []
    assert server.connections == 0


DISGUISED = {
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "hex": "0x7f000001",
    "dotted hex": "0x7f.0x0.0x0.0x1",
    "short": "127.1",
    "zero": "0",
    "leading zeros": "127.0.0.01",
    "too many parts": "127.0.0.1.1",
    "circled digits": "①②⑦.0.0.1",
    "fullwidth digits": "\uff11\uff12\uff17.0.0.1",
    "an ideographic full stop": "127。0。0。1",
    "percent-encoded": "%31%32%37.0.0.1",
    "a zone": "[fe80::1%25eth0]",
    "localhost": "localhost",
    "LOCALHOST": "LOCALHOST",
    "localhost with a dot": "localhost.",
    "a name below localhost": "x.localhost",
    "circled localhost": "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "localhost in a ligature": "localhoﬆ",
    "userinfo before loopback": "public.example@127.0.0.1",
    "a backslash": "public.example\\@127.0.0.1",
    "userinfo with a fragment": "127.0.0.1#@public.example",
    "malformed punycode": "xn--a",
    "a soft hyphen": "local\u00adhost",
    "a line break": "public.example\n",
    "a bidi override": "\u202emoc.elpmaxe",
    "a lone surrogate": "\ud800.example",
    "no host": "",
    "a name too long": "a" * 64 + ".example",
    "a host too long": ".".join(["a" * 60] * 5),
}


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in DISGUISED.items()])
async def test_a_disguised_host_is_never_connected_to(
    server: HostileServer, connection_log: ConnectionLog, host: str
) -> None:
    """However a host is spelled, the address that it means is checked."""
    local = Names({"localhost": ["127.0.0.1"], "x.localhost": ["127.0.0.1"]})

    await refusal(ImageFetcher(allowing(server), LIMITS, local), server.url("/good", host))

    assert connection_log.addresses == []
    assert server.connections == 0


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    "url",
    [
        "http://user:word@public.example/",
        "http://user@public.example/",
        "http://public.example:22/",
        "https://public.example:8443/",
        "http://public.example:0/",
        "http://public.example:99999/",
        "http://public.example:x/",
        "ftp://public.example/",
        "file:///etc/passwd",
        "file://public.example/etc/passwd",
        "gopher://public.example/_",
        "dict://public.example/",
        "ldap://public.example/",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "blob:http://public.example/1",
        "//public.example/",
        "public.example",
        "",
        "http://",
        "http:///image.png",
        "http://public.example/" + "x" * 9000,
        "http://public.example/" + "x" * 70_000,
        "http://public.example/a b\tc\nd",
    ],
    ids=lambda url: url[:40] or "nothing",
)
async def test_a_url_of_another_kind_is_never_looked_up(
    connection_log: ConnectionLog, url: str
) -> None:
    """Scheme, port, credentials and length are refused before the name is resolved."""
    names = Names(BOOK)

    await refusal(ImageFetcher(address_policy(Settings.load()), LIMITS, names), url)

    assert names.lookups == []
    assert connection_log.addresses == []


@pytest.mark.hostile("fetches")
async def test_one_private_answer_among_public_ones_refuses_the_name(
    server: HostileServer, connection_log: ConnectionLog
) -> None:
    """A name with public and private addresses is an attack; no connection is opened."""
    names = Names({"mixed.example": ["127.0.0.1", "10.0.0.1"]})

    sentence = await refusal(source_of(server, names=names), server.url("/good", "mixed.example"))

    assert sentence == "Invalid image URL: mixed.example is not a public address"
    assert connection_log.addresses == []


@pytest.mark.hostile("fetches")
async def test_an_address_is_pinned(server: HostileServer, connection_log: ConnectionLog) -> None:
    """The name is resolved once, and the connection goes to the address that was checked."""
    names = Names({"rebinding.example": [["127.0.0.1"], ["10.0.0.1"]]})

    await source_of(server, names=names).fetch(server.url("/good", "rebinding.example"))

    assert names.lookups == ["rebinding.example"]
    assert connection_log.addresses == [("127.0.0.1", server.port)]


@pytest.mark.hostile("fetches")
async def test_a_name_rebound_between_redirects_is_refused(
    server: HostileServer, connection_log: ConnectionLog
) -> None:
    """Every new connection is checked again."""
    server.answers["/bad"] = redirect("/good")
    names = Names({"rebinding.example": [["127.0.0.1"], ["10.0.0.1"]]})

    url = server.url("/bad", "rebinding.example")
    sentence = await refusal(source_of(server, names=names), url)

    assert sentence.startswith("Invalid image URL: rebinding.example redirects to a URL that")
    assert connection_log.addresses == [("127.0.0.1", server.port)]


@pytest.mark.hostile("fetches")
async def test_a_caller_cannot_tell_which_private_names_exist(server: HostileServer) -> None:
    """The sentence for an unknown name is the same as for a private one."""
    names = Names({"exists.example": ["10.0.0.1"]})
    source = source_of(server, names=names)

    exists = await refusal(source, server.url("/", "exists.example"))
    unknown = await refusal(source, server.url("/", "unknown.example"))

    assert exists.replace("exists", "unknown") == unknown


@pytest.mark.hostile("fetches")
async def test_a_hung_lookup_keeps_the_deadline(server: HostileServer) -> None:
    """`getaddrinfo` cannot be stopped, but the job does not wait for it."""
    release = threading.Event()

    def hung(*_: object) -> Iterable[Row]:
        release.wait(30)
        return []

    source = ImageFetcher(allowing(server, "127.0.0.1/32"), HURRY, hung)
    sentence = await refusal(source, server.url("/good"))
    release.set()

    assert sentence == (
        "Invalid image URL: public.example did not deliver the image within 0.3 seconds"
    )


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    "failure",
    [socket.gaierror(-3, "Temporary failure"), UnicodeError("label too long"), OSError("no file")],
    ids=["no answer", "an unusable name", "no resolver"],
)
async def test_a_failed_lookup_is_one_sentence(server: HostileServer, failure: Exception) -> None:
    """Whatever the resolver raises, the caller reads one sentence."""

    def failing(*_: object) -> Iterable[Row]:
        raise failure

    source = ImageFetcher(allowing(server), LIMITS, failing)

    assert await refusal(source, server.url("/")) == (
        "Invalid image URL: public.example is not a public address"
    )


@pytest.fixture
def black_hole(server: HostileServer) -> Iterator[str]:
    """An address at which connections to the server's port neither succeed nor fail."""
    address = ("127.0.0.9", server.port)
    sockets = [socket.socket() for _ in range(5)]
    try:
        sockets[0].bind(address)
        sockets[0].listen(0)
        for crowd in sockets[1:]:
            crowd.setblocking(False)
            crowd.connect_ex(address)
        yield address[0]
    finally:
        for each in sockets:
            each.close()


on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere loopback has one address, not sixteen million"
)


@on_linux
async def test_a_dead_address_does_not_hide_a_live_one(
    server: HostileServer, black_hole: str
) -> None:
    """A host's next address is tried while there is time."""
    names = Names({"half.example": [black_hole, "127.0.0.1"]})
    source = ImageFetcher(allowing(server, "127.0.0.0/8"), FetchLimits(seconds=8), names)

    assert (await source.fetch(server.url("/good", "half.example"))).size == (64, 48)


@pytest.mark.hostile("fetches")
@on_linux
async def test_a_dead_host_is_one_sentence(server: HostileServer, black_hole: str) -> None:
    """An allowed address does not answer; the sentence names no address or port."""
    names = Names({"down.example": [black_hole]})
    source = ImageFetcher(allowing(server, "127.0.0.0/8"), FetchLimits(seconds=1), names)

    assert await refusal(source, server.url("/", "down.example")) == (
        "Invalid image URL: down.example could not be reached"
    )


async def test_a_closed_port_is_one_sentence(server: HostileServer) -> None:
    """The sentence is the same for a server that is down."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    policy = Policy(allowed_networks=(ip_network("127.0.0.1/32"),), allowed_ports=frozenset({port}))

    assert await refusal(
        ImageFetcher(policy, LIMITS, Names(BOOK)), f"http://public.example:{port}/"
    ) == ("Invalid image URL: public.example could not be reached")


async def test_a_proxy_in_the_environment_is_ignored(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would resolve names itself, without the policy."""
    async with HostileServer({}) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

        assert (await source_of(server).fetch(server.url("/good"))).size == (64, 48)
        assert proxy.connections == 0


async def test_a_setting_allows_a_development_network(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The named network and ports are allowed, and the metadata address stays denied."""
    monkeypatch.setenv("FETCH_ALLOWED_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("FETCH_ALLOWED_PORTS", f"80,{server.port}")
    source = ImageFetcher(address_policy(Settings.load()), LIMITS)

    assert (await source.fetch(server.url("/good", "127.0.0.1"))).size == (64, 48)
    for closed in ("http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/"):
        assert (await refusal(source, closed)).endswith("is not a public address")


# --- TLS ---


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[HostileServer]:
    """A server with a self-signed certificate."""
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain, certificate.private_key)
    async with HostileServer({"/good": body(PNG)}, tls=context) as running:
        yield running


@pytest.mark.hostile("fetches")
async def test_an_untrusted_certificate_is_refused(tls_server: HostileServer) -> None:
    """An untrusted certificate ends the connection before a request is sent."""
    url = tls_server.url("/good", scheme="https")

    assert await refusal(source_of(tls_server), url) == (
        "Invalid image URL: public.example could not be reached"
    )
    assert tls_server.requests == []


@pytest.mark.hostile("fetches")
async def test_https_to_a_server_that_speaks_http_is_refused(server: HostileServer) -> None:
    """If the server does not speak TLS, the caller reads one sentence."""
    url = server.url("/good", scheme="https")

    assert "public.example" in await refusal(source_of(server, HURRY), url)


# --- data URLs ---

ENCODED = base64.b64encode(PNG).decode()

INLINE = {
    "base64": f"data:image/png;base64,{ENCODED}",
    "no type": f"data:;base64,{ENCODED}",
    "a wrong type": f"data:text/html;base64,{ENCODED}",
    "parameters": f"data:image/png;name=a.png;charset=utf-8;base64,{ENCODED}",
    "upper case": f"DATA:image/png;BASE64,{ENCODED}",
    "lines": "data:image/png;base64," + "\r\n ".join(re.findall(".{1,76}", ENCODED)),
    "percent-encoded base64": f"data:;base64,{quote_from_bytes(ENCODED.encode(), safe='')}",
    "percent-encoded blanks": f"data:image/png;base64,%0A{ENCODED}%20",
    "no padding": f"data:image/png;base64,{ENCODED.rstrip('=')}",
    "percent-encoded bytes": f"data:image/png,{quote_from_bytes(PNG)}",
}


@pytest.mark.parametrize("url", [pytest.param(url, id=name) for name, url in INLINE.items()])
async def test_a_data_url_is_decoded(url: str, connection_log: ConnectionLog) -> None:
    """Every spelling that a browser accepts is decoded, without a connection."""
    assert (await ImageFetcher(Policy(), LIMITS).fetch(url)).size == (64, 48)
    assert connection_log.addresses == []


MALFORMED = "Invalid image data URL: its encoding is malformed"
TOO_MUCH = "Invalid image data URL: it holds more than 0.05 MB"

BAD_INLINE = {
    "no comma": ("data:image/png;base64", "Invalid image data URL: it has no comma"),
    "nothing": ("data:", "Invalid image data URL: it has no comma"),
    "empty": ("data:,", f"Invalid image: {NOT_AN_IMAGE}"),
    "empty base64": ("data:image/png;base64,", f"Invalid image: {NOT_AN_IMAGE}"),
    "other letters": (f"data:;base64,{ENCODED[:80]}!", MALFORMED),
    "URL-safe letters": ("data:;base64,-_-_", MALFORMED),
    "padding in the middle": ("data:;base64,QUJD=QUJD", MALFORMED),
    "one letter too many": ("data:;base64,QUJDQ", MALFORMED),
    "no ASCII": ("data:;base64,é", MALFORMED),
    "a lone surrogate": ("data:,\ud800", MALFORMED),
    "a lone surrogate in base64": ("data:;base64,\ud800", MALFORMED),
    "HTML": ("data:text/html,<script>alert(1)</script>", f"Invalid image: {NOT_AN_IMAGE}"),
    "half an image": (
        f"data:;base64,{base64.b64encode(PNG[:90]).decode()}",
        "Invalid image: the file is damaged or truncated",
    ),
    "a byte too many": (f"data:;base64,{base64.b64encode(bytes(50_001)).decode()}", TOO_MUCH),
    "too long to unpack": ("data:," + "x" * 150_001, TOO_MUCH),
    "too many percent signs": ("data:," + "%00" * 50_001, TOO_MUCH),
}


@pytest.mark.hostile("fetches")
@pytest.mark.parametrize(
    ("url", "sentence"), [pytest.param(*case, id=name) for name, case in BAD_INLINE.items()]
)
async def test_a_bad_data_url_is_one_sentence(url: str, sentence: str) -> None:
    """The sentence says what is wrong and repeats none of the data."""
    assert await refusal(ImageFetcher(Policy(), LIMITS), url) == sentence
