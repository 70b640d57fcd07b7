"""Which plan a GPU gets for each mode, and which modes are refused."""

from dataclasses import replace
from typing import get_args

import pytest

from kontext.errors import BootError
from kontext.inference.memory import peak_bytes
from kontext.inference.mode import Card, choose
from kontext.settings import Mode, ModeSetting

GIB = 1 << 30
RTX_4090 = Card("NVIDIA GeForce RTX 4090", int(23.5 * GIB), (8, 9))
A5000 = Card("NVIDIA RTX A5000", int(23.5 * GIB), (8, 6))
RTX_5090 = Card("NVIDIA GeForce RTX 5090", int(31.3 * GIB), (12, 0))
L40S = Card("NVIDIA L40S", int(44.4 * GIB), (8, 9))
A6000 = Card("NVIDIA RTX A6000", int(47.4 * GIB), (8, 6))
A100 = Card("NVIDIA A100 80GB PCIe", int(79.2 * GIB), (8, 0))
H100 = Card("NVIDIA H100 80GB HBM3", int(79.2 * GIB), (9, 0))
H200 = Card("NVIDIA H200", int(139.8 * GIB), (9, 0))
B200 = Card("NVIDIA B200", int(178.4 * GIB), (10, 0))
A4000 = Card("NVIDIA RTX A4000", int(15.7 * GIB), (8, 6))
V100 = Card("Tesla V100-SXM2-32GB", int(31.7 * GIB), (7, 0))
"""Memory as torch reports it: less than advertised, because of the driver and error correction."""

SMALL = [RTX_4090, A5000]
LARGE = [L40S, A6000, A100, H100, H200, B200]
ALL = [*SMALL, RTX_5090, *LARGE]


def each(cards: list[Card]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", cards, ids=lambda card: card.name)


@pytest.mark.parametrize(
    ("card", "mode", "products", "text_encoder", "attention"),
    [
        pytest.param(RTX_4090, "fast", "float8", "int8 weights", "torch", id="4090"),
        pytest.param(A5000, "fast", "int8 weights", "int8 weights", "torch", id="A5000"),
        pytest.param(RTX_5090, "fast", "float8", "bfloat16", "torch", id="5090"),
        pytest.param(L40S, "fast", "float8", "bfloat16", "torch", id="L40S"),
        pytest.param(A6000, "exact", "bfloat16", "bfloat16", "torch", id="A6000"),
        pytest.param(A100, "exact", "bfloat16", "bfloat16", "torch", id="A100"),
        pytest.param(H100, "fast", "float8", "bfloat16", "cudnn", id="H100"),
        pytest.param(H200, "fast", "float8", "bfloat16", "cudnn", id="H200"),
        pytest.param(B200, "fast", "float8", "bfloat16", "torch", id="B200"),
    ],
)
def test_auto_takes_the_quickest_mode_that_stays_close_to_exact(
    card: Card, mode: str, products: str, text_encoder: str, attention: str
) -> None:
    """Float8 where the card computes it, else bfloat16 where it fits, else quantised weights."""
    plan = choose("auto", card)

    assert (plan.mode, plan.transformer, plan.text_encoder) == (mode, products, text_encoder)
    assert plan.attention == attention


@each(ALL)
def test_auto_never_predicts_steps(card: Card) -> None:
    """Only `turbo` does, which must be asked for."""
    assert not choose("auto", card).step_cache
    assert not choose("fast", card).step_cache
    assert choose("turbo", card).step_cache


@each(SMALL)
@pytest.mark.parametrize("setting", ["auto", "fast", "turbo"])
def test_24_gb_hold_everything_quantised_below_22(card: Card, setting: ModeSetting) -> None:
    """Transformer and text encoder; all of the bfloat16 weights are never on the GPU at once."""
    plan = choose(setting, card)

    assert "bfloat16" not in {plan.transformer, plan.modulation, plan.text_encoder}
    assert peak_bytes(plan) < 22e9
    assert plan.streamed


@each(LARGE)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_48_gb_and_more_hold_every_mode_without_savings(card: Card, mode: Mode) -> None:
    """Text encoder and modulation stay in bfloat16, and the weights are loaded whole."""
    plan = choose(mode, card)

    assert plan.mode == mode
    assert (plan.modulation, plan.text_encoder) == ("bfloat16", "bfloat16")
    assert not plan.streamed


@each(ALL)
@pytest.mark.parametrize("mode", ["fast", "turbo"])
def test_no_card_is_asked_for_float8_that_it_cannot_compute(card: Card, mode: Mode) -> None:
    """Below compute capability 8.9 it gets int8, and with little memory int8 weights only."""
    products = choose(mode, card).transformer

    assert (products == "float8") == (card.capability >= (8, 9))
    assert (products == "int8") == (card in {A6000, A100})


@pytest.mark.parametrize(
    ("setting", "card", "sentence"),
    [
        pytest.param(
            "exact",
            RTX_4090,
            "NVIDIA GeForce RTX 4090 with 25 GB of memory cannot hold MODE=exact; "
            "modes that it can hold: fast, turbo",
            id="too-large-a-mode",
        ),
        pytest.param(
            "auto",
            A4000,
            "NVIDIA RTX A4000 with 17 GB of memory cannot hold MODE=auto; "
            "modes that it can hold: none",
            id="16-GB",
        ),
        pytest.param(
            "fast",
            V100,
            "Tesla V100-SXM2-32GB with 34 GB of memory cannot hold MODE=fast; "
            "modes that it can hold: none",
            id="no-bfloat16",
        ),
    ],
)
def test_a_card_that_cannot_hold_the_mode_is_refused_with_a_list_of_modes(
    setting: ModeSetting, card: Card, sentence: str
) -> None:
    """The sentence names the card, its memory, the setting and the modes that would fit."""
    with pytest.raises(BootError) as refusal:
        choose(setting, card)

    assert str(refusal.value) == sentence


@each(ALL)
def test_no_card_decodes_in_tiles_what_is_generated_by_default(card: Card) -> None:
    """2.1 megapixels are decoded whole, without seams, also on 24 GB."""
    assert not choose("auto", card).tiled


@pytest.mark.parametrize(
    ("card", "tiled"),
    [(RTX_4090, True), (L40S, False), (H200, False)],
    ids=["4090", "L40S", "H200"],
)
def test_larger_images_are_decoded_in_tiles_where_memory_is_short(card: Card, tiled: bool) -> None:
    """When a deployer has switched the limit off; no card is refused because of them."""
    assert choose("auto", card, max_pixels=2368 * 2368).tiled is tiled


def test_flash_attention_3_is_used_on_hopper_where_it_is_installed() -> None:
    """In every mode, but in float8 in none."""
    modes: list[Mode] = list(get_args(Mode))
    with_it = [choose(mode, replace(H100, has_flash_attention_3=True)) for mode in modes]

    assert {plan.attention for plan in with_it} == {"flash 3"}
    assert {plan.float8_attention for plan in with_it} == {None}
    assert choose("exact", replace(B200, has_flash_attention_3=True)).attention == "torch"
