"""The prompt's two encoders and their tokenizers, word by word, and how they start out.

CLIP's pooled vector says which instruction the prompt names; it is learnt. T5 says how far each
padding is from the prompt's end: the transformer reads columns and rows off it. It is set.
Knows nothing of pictures.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

POOLED = 64
T5_WIDTH = 64
LONGEST = 127
"""Columns or rows of tokens that are told apart: pictures of up to 2032 pixels."""
ANGLES = tuple(10_000.0 ** (-index / 14) for index in range(6))
"""Radians per token: the six highest of the transformer's rotary frequencies."""
_END, _PADDING, _WORD, _CODES = 0, 1, 2, 8
_STRONG = 20.0


def clip_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Return a tokenizer that gives each of `words` one token; it spells other words."""
    alphabet = [chr(code) for code in range(0x21, 0x7F)]
    merges = _merges([word for word in words if len(word) > 1])
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{one}</w>" for one in alphabet)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, the commonest pair first, until each word is one piece.

    `tokenizers`' own trainer breaks ties otherwise from one process to the next.
    """
    spelt = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for pieces in spelt for pair in pairwise(pieces))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = [_merged(pieces, best) for pieces in spelt]


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in pieces:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def clip(vocabulary: int) -> CLIPTextModel:
    """Return CLIP's text encoder, to be learnt."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=POOLED,
        intermediate_size=4 * POOLED,
        projection_dim=POOLED,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config)


def t5_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """Return a tokenizer of `words`, lower case; what is none of them is unknown."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -15.0)]
    return T5Tokenizer(
        vocab=special + [(f"▁{word}", -5.0) for word in words],
        extra_ids=0,
        model_max_length=512,
    )


def t5(vocabulary: int) -> T5EncoderModel:
    """Return T5's encoder, set to number the paddings after the prompt's end."""
    heads = 4 * len(ANGLES) + 2
    config = T5Config(
        vocab_size=vocabulary,
        d_model=T5_WIDTH,
        d_kv=2,
        d_ff=16,
        num_layers=1,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=512,
        relative_attention_max_distance=1024,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5EncoderModel(config).eval()
    with torch.no_grad():
        _number(model, heads)
    return model.requires_grad_(False)


def _number(model: T5EncoderModel, heads: int) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.zero_()
    strong = T5_WIDTH**0.5  # a token's only entry: what the layer norm leaves as it is
    model.shared.weight[:, _WORD] = strong
    model.shared.weight[:2] = 0
    model.shared.weight[0, _PADDING] = model.shared.weight[1, _END] = strong
    attention = model.encoder.block[0].layer[0].SelfAttention
    for head in range(heads):
        attention.q.weight[2 * head, _PADDING] = _STRONG / strong
        attention.k.weight[2 * head, _END] = 1 / strong
        attention.v.weight[2 * head, _END] = 1 / strong
        attention.v.weight[2 * head, _PADDING] = -1 / strong
        attention.o.weight[_CODES + head, 2 * head] = 1
    # Each head shares its attention between the prompt's end and the token itself alone.
    bias = attention.relative_attention_bias.weight
    bias[:] = _share(torch.zeros(()))
    bias[: LONGEST + 1] = torch.stack([_shares(place - 1) for place in range(LONGEST + 1)])
    bias[LONGEST + 1 :, -1] = _share(torch.tensor(-0.999))
    bias[256:] = 0
    bias[0] = _STRONG


def _share(value: torch.Tensor) -> torch.Tensor:
    """Return the attention logit that makes a head's result `value`, -1 to 1."""
    return torch.logit((1 + value) / 2)


def _shares(place: int) -> torch.Tensor:
    codes = [0.8 * turn(place * angle) for angle in ANGLES for turn in (math.cos, math.sin)]
    double = [0.8 * turn(2 * place * angle) for angle in ANGLES for turn in (math.cos, math.sin)]
    first = 0.98 if place == 0 else -0.98
    return _share(torch.tensor([*codes, *double, first, 0.999]))
