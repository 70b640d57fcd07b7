"""Runpod's Hub: its two files have the documented form and say what the settings say."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from kontext.address_policy import address_policy
from kontext.contract.request import EditRequest, unknown_keys
from kontext.images.fetch import ImageFetcher
from kontext.inference.mode import Card, choose, supported_modes
from kontext.settings import Mode, Settings
from kontext.startup.boot import Boot
from tests.support.progress import post_nothing

ROOT = Path(__file__).parent.parent

GIB = 1 << 30
POOLS = {
    "ADA_24": (24, Card("RTX 4090", int(23.5 * GIB), (8, 9))),
    "AMPERE_24": (24, Card("L4 or A5000", int(22.0 * GIB), (8, 6))),
    "ADA_32_PRO": (32, Card("RTX 5090", int(31.3 * GIB), (12, 0))),
    "ADA_48_PRO": (48, Card("L40S", int(44.4 * GIB), (8, 9))),
    "AMPERE_48": (48, Card("A40", int(44.4 * GIB), (8, 6))),
    "AMPERE_80": (80, Card("A100", int(79.2 * GIB), (8, 0))),
    "ADA_80_PRO": (80, Card("H100", int(79.2 * GIB), (9, 0))),
    "HOPPER_141": (141, Card("H200", int(139.8 * GIB), (9, 0))),
}
"""Runpod's GPU pools: the GB in the name, and the weakest card: the smallest memory that torch
reports, and the oldest capability."""

NOT_OFFERED = {
    "fetch_allowed_networks": "for development",
    "fetch_allowed_ports": "for development",
    "safety_model_path": "fixed by the image",
    "safety_second_opinion_path": "not in the image that the Hub builds",
    "compile_cache": "for endpoints that a deployer has measured",
    "compile_cache_secret": "goes with it",
    "stand_in": "for tests",
    "prefetch_seconds": "rarely worth a change",
    "upload_timeout_seconds": "rarely worth a change",
    "stop_timeout_seconds": "rarely worth a change",
    "shutdown_seconds": "rarely worth a change",
    "max_internal_errors": "rarely worth a change",
    "max_safety_tolerance": "for contracts of other vendors",
    "max_steps": "for contracts of other vendors",
    "max_guidance": "for contracts of other vendors",
    "runpod_endpoint_id": "set by Runpod",
    "runpod_webhook_get_job": "set by Runpod",
}
"""Settings that are not in the Hub's form, and why."""


class Form(BaseModel):
    """Allows only the documented fields (docs.runpod.io/hub/publishing-guide)."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Form):
    label: str
    value: str


class Input(Form):
    name: str
    type: Literal["string", "number", "boolean", "huggingface"]
    description: str
    default: str | int | float | bool | None = None
    required: bool = False
    advanced: bool = False
    options: list[Option] = []
    min: int | float | None = None
    max: int | float | None = None
    trueValue: str | None = None  # noqa: N815 - Runpod's name
    falseValue: str | None = None  # noqa: N815 - Runpod's name


class Variable(Form):
    key: str
    value: str | None = None
    input: Input | None = None

    @model_validator(mode="after")
    def _is_fixed_or_asked_for(self) -> "Variable":
        if (self.value is None) == (self.input is None):
            raise ValueError(f"{self.key} needs a value or an input")
        return self


class Preset(Form):
    name: str
    defaults: dict[str, Any]


class HubConfig(Form):
    runsOn: Literal["GPU"]  # noqa: N815 - Runpod's name
    endpointType: Literal["LB"] | None = None  # noqa: N815 - Runpod's name
    containerDiskInGb: int  # noqa: N815 - Runpod's name
    gpuCount: int  # noqa: N815 - Runpod's name
    gpuIds: str  # noqa: N815 - Runpod's name
    allowedCudaVersions: list[str]  # noqa: N815 - Runpod's name
    env: list[Variable] = []
    presets: list[Preset] = []


class Hub(Form):
    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    iconUrl: str | None = None  # noqa: N815 - Runpod's name
    config: HubConfig


class HubTest(Form):
    name: str
    input: dict[str, Any]
    timeout: int


class ConfigOfTests(Form):
    gpuTypeId: str  # noqa: N815 - Runpod's name
    gpuCount: int  # noqa: N815 - Runpod's name
    env: list[Variable] = []
    allowedCudaVersions: list[str]  # noqa: N815 - Runpod's name


class HubTests(Form):
    tests: list[HubTest]
    config: ConfigOfTests


HUB = Hub.model_validate_json((ROOT / ".runpod/hub.json").read_text())
TESTS = HubTests.model_validate_json((ROOT / ".runpod/tests.json").read_text())
INPUTS = {variable.key: variable.input for variable in HUB.config.env if variable.input}

each_input = pytest.mark.parametrize(("key", "shown"), INPUTS.items(), ids=INPUTS.keys())
each_test = pytest.mark.parametrize("test", TESTS.tests, ids=lambda test: test.name)


def test_every_setting_is_in_the_form_or_left_out_for_a_reason() -> None:
    """The form's keys are settings; a new setting is added to one of the two lists."""
    offered = [variable.key.lower() for variable in HUB.config.env]

    assert sorted([*offered, *NOT_OFFERED]) == sorted(Settings.model_fields)


@each_input
def test_the_form_shows_what_the_setting_says(key: str, shown: Input) -> None:
    """Description, default and type are the setting's own."""
    field = Settings.model_fields[key.lower()]
    numeric = {int, float} & {field.annotation, *get_args(field.annotation)}

    assert shown.description == field.description
    assert shown.default == field.default
    assert shown.type == ("number" if numeric else "string")
    assert [option.value for option in shown.options] == (
        list(get_args(field.annotation)) if shown.options else []
    )


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        pytest.param(key, limit, id=f"{key}={limit}")
        for key, shown in INPUTS.items()
        for limit in (shown.min, shown.max)
        if limit is not None
    ],
)
def test_the_form_allows_no_number_that_the_setting_refuses(
    key: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployer who stays within the form's limits gets a worker that starts."""
    monkeypatch.setenv(key, str(limit))

    assert getattr(Settings.load(), key.lower()) == limit


OFFERED = HUB.config.gpuIds.split(",")


def test_every_size_of_card_that_the_docs_name_is_offered() -> None:
    """The table of cards in docs/gpu.md, and the form that rents them, begin at 24 GB."""
    named = re.findall(r"^\| (\d+) GB", (ROOT / "docs/gpu.md").read_text(), re.MULTILINE)

    assert list(POOLS) == OFFERED
    assert {int(size) for size in named} == {min(size, 80) for size, _ in POOLS.values()}


@pytest.mark.parametrize("pool", OFFERED)
def test_every_gpu_offered_holds_the_modes_that_the_form_promises(pool: str) -> None:
    """Except modes whose label asks for more memory; every GPU holds the default."""
    size, card = POOLS[pool]
    mode = INPUTS["MODE"]
    assert mode is not None
    assert choose("auto", card).mode in get_args(Mode)
    for option in mode.options:
        least = re.search(r"\((\d+) GB or more\)", option.label)
        if option.value in get_args(Mode):
            promised = least is None or size >= int(least[1])
            assert (option.value in supported_modes(card)) == promised, option.label


def test_hosts_have_the_driver_that_torch_needs() -> None:
    """Torch 2.13 contains CUDA 13, which needs a driver of CUDA 13."""
    versions = HUB.config.allowedCudaVersions

    assert {version.partition(".")[0] for version in versions} == {"13"}
    assert versions == TESTS.config.allowedCudaVersions


@each_test
async def test_the_hubs_tests_need_no_network(test: HubTest) -> None:
    """Each input is valid and contains its image."""
    request = EditRequest.parse(test.input)
    assert request.image is not None
    image = await ImageFetcher(address_policy(Settings())).fetch(request.image)

    assert unknown_keys(test.input) == []
    assert request.image.startswith("data:")
    assert image.mode == "RGB"


@each_test
async def test_the_hubs_tests_pass(test: HubTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tests' own environment the worker boots without a bucket and delivers."""
    for variable in TESTS.config.env:
        monkeypatch.setenv(variable.key, variable.value or "")
    boot = Boot(Settings.load(), post_nothing)
    for step in boot.steps:
        step()

    delivered = await boot.run({"id": test.name, "input": test.input})

    assert delivered.keys() == {"image_url", "cost"}
