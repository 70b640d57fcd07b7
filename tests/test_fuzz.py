"""Fuzz tests of the decoder, the fetcher and `input`: every failure is one sentence."""

import asyncio
import json
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ssrfguard import Policy

from kontext.contract.request import EditRequest, unknown_keys
from kontext.errors import DecodeError, InvalidRequest, SourceError
from kontext.images.decode import decode
from kontext.images.fetch import FetchLimits, ImageFetcher
from kontext.images.input_limits import MAX_SIDE, MIN_SIDE
from tests.support.hostile_server import HostileServer, Names, sends
from tests.support.images import (
    display_p3_profile,
    encoded,
    jpeg_with_scans,
    oriented,
    plain,
    quadrants,
)

pytestmark = [
    pytest.mark.hostile("fuzzed inputs"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SMALL = FetchLimits(seconds=1, max_bytes=10_000)

SEEDS = [
    encoded(quadrants(), "JPEG", exif=oriented(6), icc_profile=display_p3_profile()),
    encoded(plain(colour=(9, 9, 9, 9), mode="CMYK"), "JPEG"),
    encoded(plain(), "MPO", save_all=True, append_images=[plain()]),
    jpeg_with_scans(30),
    encoded(quadrants(), "PNG", exif=oriented(5), icc_profile=display_p3_profile()),
    encoded(quadrants().quantize(4), "PNG", transparency=1),
    encoded(plain(colour=30_000, mode="I;16"), "PNG", transparency=30_000),
    encoded(plain(), "PNG", save_all=True, append_images=[plain(), plain(colour=0)]),
    encoded(quadrants().convert("RGBA"), "WEBP", exif=oriented(8), lossless=True),
    encoded(plain(), "WEBP", save_all=True, append_images=[plain(), plain(colour=0)]),
    encoded(quadrants(), "GIF", transparency=1),
    encoded(plain(), "GIF", save_all=True, append_images=[plain(), plain(colour=0)]),
    encoded(quadrants(), "AVIF", exif=oriented(7), icc_profile=display_p3_profile()),
]


@st.composite
def mutated_images(draw: st.DrawFn) -> bytes:
    """Draw a valid file with bytes changed, spliced in from another, repeated or cut off."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 64)))
        match draw(st.sampled_from(["flip", "write", "splice", "repeat", "cut", "truncate"])):
            case "flip" if start < len(content):
                content[start] ^= 1 << draw(st.integers(0, 7))
            case "write":
                content[start:end] = draw(st.binary(max_size=64))
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                content[start:end] = other[draw(st.integers(0, len(other))) :][:256]
            case "repeat":
                content[start:start] = content[start:end] * draw(st.integers(1, 50))
            case "cut":
                del content[start:end]
            case "truncate":
                del content[start:]
    return bytes(content)


def decodes_or_refuses(content: bytes) -> None:
    """Assert that `content` is an image within the limits, or one sentence."""
    try:
        image = decode(content)
    except DecodeError as refused:
        assert_one_line(str(refused))
    else:
        assert image.mode == "RGB"
        assert all(MIN_SIDE <= side <= MAX_SIDE for side in image.size)
        assert image.info == {}


def assert_one_line(sentence: str) -> None:
    """Assert that `sentence` can go to a caller: one line, short, and UTF-8."""
    assert len(sentence.splitlines()) == 1
    assert 10 < len(sentence) < 2000
    assert sentence.encode()


@given(st.binary(max_size=2000))
@FUZZ
def test_any_bytes_decode_or_are_refused(content: bytes) -> None:
    """Random bytes raise nothing but a `DecodeError`."""
    decodes_or_refuses(content)


@given(mutated_images())
@settings(FUZZ, max_examples=500)
def test_a_mutated_image_decodes_or_is_refused(content: bytes) -> None:
    """The result is an image within the limits, or a `DecodeError`."""
    decodes_or_refuses(content)


@st.composite
def mutated_answers(draw: st.DrawFn) -> bytes:
    """Draw what a server might send instead of correct HTTP."""
    fields = st.sampled_from(
        [
            "Content-Length",
            "Content-Encoding",
            "Transfer-Encoding",
            "Location",
            "Set-Cookie",
            "Connection",
            "X",
        ]
    )
    values = st.one_of(
        st.sampled_from(
            ["0", "5", "-1", "chunked", "gzip", "identity", "/", "//", "http://", "a=b"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
    )
    status = draw(st.one_of(st.sampled_from(["200 OK", "302 Found", "100"]), st.text(max_size=5)))
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(fields, values)))]
    head = draw(st.sampled_from(["\r\n", "\n"])).join([*lines, "", ""]).encode("utf-8", "replace")
    return head + draw(st.one_of(st.binary(max_size=100), st.sampled_from(SEEDS)))


async def fetch(answer: bytes) -> None:
    """Fetch an image from a server that sends `answer`; only a `SourceError` may be raised."""
    names = Names({"public.example": ["127.0.0.1"]})
    async with HostileServer({"/": sends(answer)}) as server:
        policy = Policy(
            allowed_networks=(ip_network("127.0.0.1/32"),), allowed_ports=frozenset({server.port})
        )
        try:
            await ImageFetcher(policy, SMALL, names).fetch(server.url("/"))
        except SourceError as refused:
            assert_one_line(str(refused))


@given(st.one_of(st.binary(max_size=500), mutated_answers()))
@settings(FUZZ, max_examples=50)
def test_any_answer_is_an_image_or_one_sentence(answer: bytes) -> None:
    """A server may send anything; the HTTP client's own errors are never raised."""
    asyncio.run(fetch(answer))


@pytest.fixture(scope="module")
def without_names() -> ImageFetcher:
    """A fetcher whose name server knows no name."""
    return ImageFetcher(Policy(), SMALL, Names({}))


@given(st.text(max_size=200))
@settings(FUZZ, max_examples=100)
def test_any_url_is_one_sentence(without_names: ImageFetcher, url: str) -> None:
    """Also a URL that no parser understands."""
    for spelling in (url, f"http://{url}", f"https://a.example/{url}", f"data:{url}"):
        with pytest.raises(SourceError) as caught:
            asyncio.run(without_names.fetch(spelling))
        assert_one_line(str(caught.value))


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**63, -(2**63) - 1, 10**400, -(10**400), 1e308, -0.0]),
        st.floats(),
        st.text(),
        st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp"]), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=20), inner, max_size=3)
    ),
    max_leaves=10,
)

NEAR = {
    "prompt": st.sampled_from(["a cat", "", " ", "x" * 10_001, "\ud800", "a\nb\u2028c"]),
    "image": st.sampled_from(
        ["https://a.example/?token=1", "data:,", "ftp://a", "http://", "HTTP://\n", "\udfff"]
    ),
    "negative_prompt": st.sampled_from(["", "fog", "x" * 10_001]),
    "size": st.sampled_from(
        ["1024*1024", "1x1", "256*2368", "0*0", "1024*1024\n", "९९९*९९९", "match_input", "9" * 99]
    ),
    "num_inference_steps": st.sampled_from([1, 28.0, 50, 0, 51, 28.5, True, "28", 10**400]),
    "guidance": st.sampled_from([0, 10.0, -0.1, 10.1, float("nan"), float("-inf"), "2", 10**400]),
    "seed": st.sampled_from([-1, 0, 2**63 - 1, 2**63, -2, 1e300, 10**400, False]),
    "output_format": st.sampled_from(["png", "jpeg", "PNG", "webp", "", 1]),
    "enable_safety_checker": st.sampled_from([True, False, 0, "false", "no"]),
    "task": st.sampled_from(["edit", "generate", "", "Edit", 1, ["edit"]]),
    "safety_tolerance": st.sampled_from([0, 6.0, -1, 7, "2", False]),
    "output_quality": st.sampled_from([1, 100.0, 0, 101, "95", 10**400, True]),
    "aspect_ratio": st.sampled_from(
        ["1:1", "21:9", "9:21", "22:9", "0:0", "1:0", "९:९", "1:1\n", "16/9", 1.5, "9" * 99 + ":9"]
    ),
}

ANYTHING = {name: st.one_of(JSON, near) for name, near in NEAR.items()}
REQUIRED = {"prompt": st.just("a cat"), "image": st.just("data:,")}
REQUESTS = st.one_of(
    JSON,
    st.fixed_dictionaries({}, optional=ANYTHING),
    st.fixed_dictionaries(
        REQUIRED, optional={name: near for name, near in NEAR.items() if name not in REQUIRED}
    ),
)


def nested(depth: int) -> Any:
    """Return an array nested `depth` times."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def parses_or_refuses(data: object) -> None:
    """Assert that `data` is a request within the contract, or one sentence."""
    assert all("\n" not in key for key in unknown_keys(data))
    try:
        request = EditRequest.parse(data)
    except InvalidRequest as refused:
        assert_one_line(str(refused))
    else:
        assert 1 <= request.num_inference_steps <= 50
        assert 0 <= request.guidance <= 10
        assert -1 <= request.seed < 2**63
        assert request.prompt.strip()
        assert json.loads(request.model_dump_json())


@given(REQUESTS)
@settings(FUZZ, max_examples=500)
def test_any_input_is_a_request_or_one_sentence(data: object) -> None:
    """Any JSON value, and almost valid requests."""
    parses_or_refuses(data)


@pytest.mark.parametrize("field", [*NEAR, "unknown"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(nested(50_000), id="deep nesting"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(10**5000, id="5000 digits"),
        pytest.param("\ud800", id="a lone surrogate"),
        pytest.param("a\u2028b\x85c\nd", id="line breaks"),
        pytest.param("x" * 1_000_000, id="a million letters"),
        pytest.param({"a": {"b": [float("nan")]}}, id="an object"),
        pytest.param(b"bytes", id="no JSON at all"),
    ],
)
def test_a_hostile_value_in_any_field_is_one_sentence(field: str, value: object) -> None:
    """No value makes a check raise another error, hang or answer in two lines."""
    parses_or_refuses({"prompt": "a cat", "image": "data:,"} | {field: value})
    parses_or_refuses(value)
