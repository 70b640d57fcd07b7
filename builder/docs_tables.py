"""Generates the tables in docs/ from the code that they describe; `make docs` writes them."""

from collections.abc import Iterable, Sequence
from typing import Any

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from kontext import errors
from kontext.address_policy import address_policy
from kontext.contract.fields import extension_fields
from kontext.contract.request import (
    MAX_PROMPT_LENGTH,
    REQUIRED_TO_EDIT,
    EditRequest,
)
from kontext.contract.size import DEFAULT_SIDES
from kontext.images.data_url import MEGABYTE
from kontext.images.decode import FORMATS
from kontext.images.decoder_protocol import (
    DECODE_TIMEOUT_SECONDS,
    HEADER_CPU_SECONDS,
    pixel_cpu_seconds,
)
from kontext.images.fetch import FetchLimits
from kontext.images.file_structure import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from kontext.images.input_limits import MAX_MEGAPIXELS, MAX_SIDE, MIN_SIDE
from kontext.inference.memory import peak_bytes, weight_bytes
from kontext.inference.mode import Card, choose, supported_modes
from kontext.settings import Settings


def contract() -> str:
    """Return a table with a row for each documented field of `input`."""
    extensions = extension_fields()
    return _fields(name for name in EditRequest.model_fields if name not in extensions)


def extensions() -> str:
    """Return a table with a row for each field of `input` that Runpod does not document."""
    extensions = extension_fields()
    return _fields(name for name in EditRequest.model_fields if name in extensions)


def _fields(names: Iterable[str]) -> str:
    fields = [(name, EditRequest.model_fields[name]) for name in names]
    rows = [
        (f"`{name}`", _json_type(name), _default(field), f"{field.description}{_range(field)}")
        for name, field in fields
    ]
    return _table(("Field", "Type", "Default", "Meaning"), rows)


def settings() -> str:
    """Return a table with a row for each environment variable."""
    rows = [
        (f"`{name.upper()}`", _default(field), str(field.description))
        for name, field in Settings.model_fields.items()
        if not field.exclude
    ]
    return _table(("Variable", "Default", "Meaning"), rows)


def renamed_settings() -> str:
    """Return a table of the old names of settings that are still read, and their new names."""
    rows = [(f"`{old}`", f"`{new}`") for old, new in Settings.renamed().items()]
    return _table(("Old name", "New name"), rows)


CARDS = {
    "24 GB, Ada (RTX 4090)": Card("", int(23.5 * 2**30), (8, 9)),
    "24 GB, Ampere (A5000, 3090)": Card("", int(23.5 * 2**30), (8, 6)),
    "32 GB, Blackwell (RTX 5090)": Card("", int(31.3 * 2**30), (12, 0)),
    "48 GB, Ampere (A6000, A40)": Card("", int(44.4 * 2**30), (8, 6)),
    "48 GB, Ada (L40S)": Card("", int(44.4 * 2**30), (8, 9)),
    "80 GB, Ampere (A100)": Card("", int(79.2 * 2**30), (8, 0)),
    "80 GB and more, Hopper, Blackwell": Card("", int(79.2 * 2**30), (9, 0)),
}
"""The kinds of card that Runpod rents, with the memory in bytes that torch reports for them."""


def modes() -> str:
    """Return a table of the cards: what `auto` means on each, and which modes it can hold."""
    rows = []
    for name, card in CARDS.items():
        plan = choose("auto", card)
        layers = f"{plan.transformer}, {plan.modulation}, {plan.text_encoder}"
        memory = f"{weight_bytes(plan) / 1e9:.1f} / {peak_bytes(plan) / 1e9:.1f} GB"
        held = ", ".join(f"`{mode}`" for mode in supported_modes(card))
        rows.append((name, f"`{plan.mode}`", layers, memory, held))
    head = (
        "Card",
        "`auto` is",
        "Blocks, modulation, T5",
        "Weights / planned peak",
        "Modes it can hold",
    )
    return _table(head, rows)


def failures() -> str:
    """Return a table with a row for each kind of error that a caller can read."""
    kinds = [
        errors.InvalidRequest,
        errors.FetchError,
        errors.DecodeError,
        errors.UnsafeImage,
        errors.OutOfMemory,
        errors.GpuFault,
        errors.WorkerShutdown,
        errors.StorageError,
        errors.BootError,
        errors.KontextError,
    ]
    return _table(("Example", "What to do"), [(kind.example, kind.remedy) for kind in kinds])


def limits() -> str:
    """Return a table of the limits on requests and input images."""
    fetch = FetchLimits()
    policy = address_policy(Settings())
    rows = [
        (
            "Prompt, negative prompt",
            f"{MAX_PROMPT_LENGTH:,} characters each; the model reads the first 512 tokens",
        ),
        (
            "Sides of the output",
            f"{DEFAULT_SIDES.shortest} to {DEFAULT_SIDES.longest} px (settings)",
        ),
        ("Input formats", f"{', '.join(FORMATS)}; of an animation, the first frame is used"),
        ("Sides of the input", f"{MIN_SIDE} to {MAX_SIDE:,} px"),
        ("Area of the input", f"{MAX_MEGAPIXELS} megapixels"),
        ("Input file", f"{fetch.max_bytes // MEGABYTE} MB, fetched within {fetch.seconds} s"),
        ("Decoding, in all", f"{DECODE_TIMEOUT_SECONDS} s"),
        ("Reading header and metadata", f"{HEADER_CPU_SECONDS:g} s of CPU time"),
        (
            "Decoding pixels",
            f"{_pixel_seconds(0):g} s of CPU time, and {_pixel_seconds(1) - _pixel_seconds(0):g} s "
            "for each megapixel",
        ),
        ("Segments of a JPEG", f"{MAX_SCANS} scans and {MAX_SEGMENTS:,} others"),
        ("Chunks of a PNG", f"{MAX_CHUNKS:,}"),
        ("Redirects of a URL", str(policy.max_redirects)),
        ("Ports of a URL", ", ".join(map(str, sorted(policy.allowed_ports)))),
    ]
    return _table(("Limit", "Value"), rows)


def _json_type(name: str) -> str:
    schema = EditRequest.model_json_schema()
    field = schema["properties"][name]
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    kinds = [kind["type"] for kind in field.get("anyOf", [field])]
    return str(kinds[0])


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.json_schema_extra == REQUIRED_TO_EDIT:
        return "required"
    value: Any = field.default
    if isinstance(value, frozenset | tuple):
        value = ",".join(map(str, sorted(value)))
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(field: FieldInfo) -> str:
    limits = {type(limit): limit for limit in field.metadata}
    if Ge not in limits or Le not in limits:
        return ""
    highest = limits[Le].le
    return f" {limits[Ge].ge} to {'2^63-1' if highest == 2**63 - 1 else highest}."


def _pixel_seconds(megapixels: int) -> float:
    return pixel_cpu_seconds(megapixels * 1000, 1000)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
