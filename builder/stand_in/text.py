"""Build the two text encoders and their tokenizers.

CLIP's pooled vector names the instruction of the prompt; it is trained. T5's vectors number the
paddings after the prompt's end, from which the transformer reads columns and rows; they are set.
Knows words and tokens, neither instructions nor images.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import flux_model
import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from .layout import ANGLES, MAX_PLACES, SIZES

_END, _PADDING, _WORD, _CODES = 0, 1, 2, 8
"""Places of a T5 vector: marks of the end, of paddings and of words, and the first of the codes."""
_STRONG = 20.0
"""An attention logit beside which all others vanish."""


def clip_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Return a tokenizer that gives each of `words` one token and spells all others."""
    alphabet = [chr(code) for code in range(0x21, 0x7F)]
    merges = _merges([word for word in words if len(word) > 1])
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{one}</w>" for one in alphabet)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that make each word one piece, the commonest pair first.

    The trainer of `tokenizers` is not used because it breaks ties differently in every process.
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
    """Return CLIP's text encoder with random weights, to be trained."""
    return flux_model.clip(SIZES.clip, vocabulary)


def t5_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """Return a tokenizer of `words`, in lower case, that takes all other words as unknown."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -15.0)]
    return T5Tokenizer(
        vocab=special + [(f"▁{word}", -5.0) for word in words],
        extra_ids=0,
        model_max_length=512,
    )


def t5(vocabulary: int) -> T5EncoderModel:
    """Return T5's encoder, set to number the paddings after the prompt's end."""
    model = flux_model.t5(SIZES.t5, vocabulary)
    with torch.no_grad():
        _set_numbering(model)
    return model.requires_grad_(False)


def _set_numbering(model: T5EncoderModel) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.zero_()
    strong = SIZES.t5.width**0.5  # as a token's only entry, the layer norm leaves it as it is
    model.shared.weight[:, _WORD] = strong
    model.shared.weight[:2] = 0
    model.shared.weight[0, _PADDING] = model.shared.weight[1, _END] = strong
    attention = model.encoder.block[0].layer[0].SelfAttention
    for head in range(SIZES.t5.heads):
        attention.q.weight[2 * head, _PADDING] = _STRONG / strong
        attention.k.weight[2 * head, _END] = 1 / strong
        attention.v.weight[2 * head, _END] = 1 / strong
        attention.v.weight[2 * head, _PADDING] = -1 / strong
        attention.o.weight[_CODES + head, 2 * head] = 1
    # Each head divides its attention between the prompt's end and the token itself.
    bias = attention.relative_attention_bias.weight
    bias[:] = _share(torch.zeros(()))
    bias[: MAX_PLACES + 1] = torch.stack([_shares(place - 1) for place in range(MAX_PLACES + 1)])
    bias[MAX_PLACES + 1 :, -1] = _share(torch.tensor(-0.999))
    bias[256:] = 0
    bias[0] = _STRONG


def _share(value: torch.Tensor) -> torch.Tensor:
    """Return the attention logit that makes a head's result `value`, -1 to 1."""
    return torch.logit((1 + value) / 2)


def _shares(place: int) -> torch.Tensor:
    """Return the logits of all heads for the padding with that number."""
    codes = [0.8 * turn(place * angle) for angle in ANGLES for turn in (math.cos, math.sin)]
    double = [0.8 * turn(2 * place * angle) for angle in ANGLES for turn in (math.cos, math.sin)]
    first = 0.98 if place == 0 else -0.98
    return _share(torch.tensor([*codes, *double, first, 0.999]))
