"""Train the stand-in and save it as a FluxKontextPipeline in half precision.

Three stages run one after another, and each continues from its checkpoint if there is one: the
autoencoder's decoder, CLIP's pooled vector, and the transformer's edits.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import flux_model
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel

from . import autoencoder, conditioning, editing, instructions, phrasings, routes, text
from .decoding import train_decoder
from .evaluation import print_seconds, print_table
from .layout import MAX_PLACES, SIZES, Part
from .prompting import UNKNOWN, train_prompts

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Train the stand-in as the command line says, save it and measure it."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    pipeline = start(arguments.seed)
    seed, folder = arguments.seed, arguments.checkpoints
    train_decoder(pipeline.vae, arguments.decoder_steps, seed, folder)
    clip = pipeline.text_encoder
    train_prompts(clip, pipeline.tokenizer, arguments.prompt_steps, seed, folder)
    prompts = prompts_of(pipeline)
    transformer, vae = pipeline.transformer, pipeline.vae
    editing.train_edits(transformer, vae, prompts, arguments.edit_steps, seed, folder)
    save(pipeline, arguments.output)
    saved = FluxKontextPipeline.from_pretrained(arguments.output, dtype=torch.float32)
    print_table(saved)
    print_seconds(saved)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stand_in.train", description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=_ROOT / "src/kontext/inference/stand_in_weights",
        help="folder to save the pipeline in",
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=_ROOT / "build/stand_in", help="folder to continue from"
    )
    parser.add_argument("--decoder_steps", type=int, default=6000, help="of the autoencoder")
    parser.add_argument("--prompt_steps", type=int, default=6000, help="of CLIP")
    parser.add_argument("--edit_steps", type=int, default=6000, help="of the transformer")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU that are used")
    return parser


def start(seed: int) -> FluxKontextPipeline:
    """Build the untrained pipeline, in float32.

    Each network starts from the seed, so that a change of one does not change the others.
    """
    words = phrasings.words()
    clip_tokenizer, t5_tokenizer = text.clip_tokenizer(words), text.t5_tokenizer(words)
    torch.manual_seed(seed)
    vae = autoencoder.autoencoder()
    torch.manual_seed(seed)
    clip = text.clip(len(clip_tokenizer))
    t5 = text.t5(len(t5_tokenizer))
    torch.manual_seed(seed)
    return FluxKontextPipeline(
        scheduler=flux_model.scheduler(),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=_transformer(t5),
    )


def _transformer(t5: Part) -> FluxTransformer2DModel:
    transformer = flux_model.transformer(SIZES.transformer, SIZES.clip.width, SIZES.t5.width)
    paddings, others = _numbered(t5)
    routes.set_routes(transformer, paddings, others)
    conditioning.set_conditioning(transformer, len(instructions.NAMES), _places(instructions.WHOLE))
    mirror, upside_down = _places(instructions.MOVES)
    conditioning.set_moves(transformer, mirror, upside_down, _places(instructions.FRAMES))
    conditioning.set_spatial(transformer, _places(instructions.DIFFICULT))
    return transformer


def _places(names: Sequence[str]) -> list[int]:
    return [instructions.NAMES.index(name) for name in names]


def _numbered(t5: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Return T5's vectors of the numbered paddings, and of all other kinds of tokens."""
    tokens = torch.tensor([[3, 4, 5, 1] + [0] * 300])
    with torch.no_grad():
        states = t5(tokens).last_hidden_state[0]
    first, end = 4, 4 + MAX_PLACES
    return states[first:end], torch.cat([states[:first], states[end:]])


def prompts_of(pipeline: FluxKontextPipeline) -> editing.Prompts:
    """Return the vectors that the transformer trains with: exact ones, as if CLIP never erred."""
    pooled = torch.zeros(UNKNOWN + 1, SIZES.clip.width)
    pooled[torch.arange(UNKNOWN + 1), torch.arange(UNKNOWN + 1)] = 1
    tokens = torch.tensor([[3, 4, 5, 1] + [0] * 28])
    with torch.no_grad():
        states = pipeline.text_encoder_2(tokens).last_hidden_state
    return editing.Prompts(pooled, states)


def save(pipeline: FluxKontextPipeline, folder: Path) -> None:
    """Write the pipeline in half precision, and the SHA-256 of each of its files."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder)
    pipeline.to(dtype=torch.float32)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in files
        if path.name not in ("SHA256SUMS", "README.md")
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main()
