"""Train the stand-in and save it as a FluxKontextPipeline in half precision.

Three things are learnt one after another, each from its checkpoint where there is one: the
autoencoder's decoder, CLIP's pooled vector, and the transformer's edits. What is set and why,
`network`, `text`, `routes` and `gauges` tell.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import editing
import gauges
import instructions
import layout
import network
import phrasings
import routes
import text
import torch
from decoding import learn_decoder
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from measuring import print_seconds, print_table
from prompting import UNKNOWN, learn_prompts
from random_model import scheduler

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run it from the command line."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    pipeline = start(arguments.seed)
    seed, folder = arguments.seed, arguments.checkpoints
    learn_decoder(pipeline.vae, arguments.decoder_steps, seed, folder)
    clip = pipeline.text_encoder
    learn_prompts(clip, pipeline.tokenizer, arguments.prompt_steps, seed, folder)
    prompts = prompts_of(pipeline)
    learn_edits = editing.learn_edits
    learn_edits(pipeline.transformer, pipeline.vae, prompts, arguments.edit_steps, seed, folder)
    save(pipeline, arguments.output)
    saved = FluxKontextPipeline.from_pretrained(arguments.output, dtype=torch.float32)
    print_table(saved)
    print_seconds(saved)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=_ROOT / "src/kontext/stand_in_weights",
        help="where to save the pipeline",
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=_ROOT / "build/stand_in", help="what to go on from"
    )
    parser.add_argument("--decoder_steps", type=int, default=6000, help="for the autoencoder")
    parser.add_argument("--prompt_steps", type=int, default=6000, help="for CLIP")
    parser.add_argument("--edit_steps", type=int, default=6000, help="for the transformer")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    return parser


def start(seed: int) -> FluxKontextPipeline:
    """Return the pipeline as training starts out with it, float32.

    Each part that is learnt is drawn from the seed anew: a change of one leaves the others alone.
    """
    words = phrasings.words()
    clip_tokenizer, t5_tokenizer = text.clip_tokenizer(words), text.t5_tokenizer(words)
    torch.manual_seed(seed)
    autoencoder = network.autoencoder()
    torch.manual_seed(seed)
    clip = text.clip(len(clip_tokenizer))
    t5 = text.t5(len(t5_tokenizer))
    torch.manual_seed(seed)
    return FluxKontextPipeline(
        scheduler=scheduler(),
        vae=autoencoder,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=_transformer(t5),
    )


def _transformer(t5: layout.Part) -> FluxTransformer2DModel:
    transformer = layout.network()
    paddings, others = _numbered(t5)
    routes.set_routes(transformer, paddings, others)
    gauges.set_gauges(transformer, len(instructions.NAMES), _places(instructions.WHOLE))
    mirror, upside_down = _places(instructions.MOVES)
    gauges.set_moves(transformer, mirror, upside_down, _places(instructions.FRAMES))
    gauges.set_spatial(transformer, _places(instructions.DIFFICULT))
    return transformer.eval()


def _places(names: Sequence[str]) -> list[int]:
    return [instructions.NAMES.index(name) for name in names]


def _numbered(t5: layout.Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Return T5's vectors of numbered paddings, and of all other kinds of tokens."""
    tokens = torch.tensor([[3, 4, 5, 1] + [0] * 300])
    with torch.no_grad():
        states = t5(tokens).last_hidden_state[0]
    first, end = 4, 4 + text.LONGEST
    return states[first:end], torch.cat([states[:first], states[end:]])


def prompts_of(pipeline: FluxKontextPipeline) -> editing.Prompts:
    """Return what the transformer learns from: exact vectors, as if the encoders never erred."""
    pooled = torch.zeros(UNKNOWN + 1, text.POOLED)
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
