"""Measure from process start to a ready pipeline, beside plain `from_pretrained`, weights cold.

Each start is a fresh process on the CPU that loads a synthetic checkpoint of some gigabytes. Every
page of the weights is touched before the pipeline counts as ready, as a copy to the GPU would do,
because loading onto a CPU only maps the files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

IMPORTS = "import torch; from diffusers import FluxKontextPipeline"

_TOUCH = """
import torch
for part in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer, pipeline.vae):
    for tensor in part.state_dict().values():
        tensor.view(-1).view(torch.uint8)[::4096].max()
"""

BASELINE = f"""
import sys
{IMPORTS}
pipeline = FluxKontextPipeline.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
{_TOUCH}
"""

OURS = f"""
import sys
from kontext.startup import garbage, imports, read_ahead
from kontext.settings import Settings
read_ahead.start(Settings.load(model_path=sys.argv[1]))
garbage.pause()
imports.import_model()
from kontext.inference import model, weights
pipeline = model.load("synthetic", weights.find("", sys.argv[1]), device="cpu").pipeline
{_TOUCH}
"""

READ = """
import sys
from pathlib import Path
from kontext.startup import page_cache
from kontext.inference.weights import Weights
page_cache.read(Weights(Path(sys.argv[1]), "").files)
"""

SIDE_BY_SIDE = """
import sys
from kontext.startup import garbage, imports, read_ahead
from kontext.settings import Settings
reading = read_ahead.start(Settings.load(model_path=sys.argv[1]))
garbage.pause()
imports.import_model()
reading.join()
"""

REQUEST = "import kontext.contract.request"


def main() -> None:
    """Measure, and print what was measured."""
    arguments = _parser().parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="boot-", dir=arguments.directory.resolve()
    ) as directory:
        checkpoint = Path(directory, "FLUX.1-Kontext-dev")
        _in_process(
            f"from boot_checkpoint import write; write({str(checkpoint)!r}, {arguments.gigabytes})"
        )
        _measure(checkpoint, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/boot.py", description=__doc__)
    parser.add_argument(
        "--gigabytes", type=float, default=6.0, help="size of the weights (default: 6)"
    )
    parser.add_argument(
        "--repeat", type=int, default=7, help="runs of which the median is taken (default: 7)"
    )
    parser.add_argument(
        "--directory", type=Path, default=BUILD, help="where to write the checkpoint"
    )
    parser.add_argument(
        "--cold",
        choices=["weights", "everything"],
        default="weights",
        help="what leaves the page cache before each run; everything needs root (default: weights)",
    )
    return parser


PROGRAMS = {
    "imports": IMPORTS,
    "reading": READ,
    "side by side": SIDE_BY_SIDE,
    "plain": BASELINE,
    "ours": OURS,
    "request": REQUEST,
    "nothing": "",
}


def _measure(checkpoint: Path, arguments: argparse.Namespace) -> None:
    """Time every program, and print the medians as a table and as one line of JSON."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.suffix == ".safetensors") / 1e9
    median = _medians(checkpoint, files, arguments)
    median["reading"] -= median["nothing"]
    median["floor"] = max(median["imports"], median["reading"])
    print(
        f"{size:.2f} GB of weights, {os.cpu_count()} cores, cold: {arguments.cold} "
        f"({_method(arguments.cold)}), medians of {arguments.repeat}\n\n{_table(median, size)}"
    )
    keys = {
        "ready_s": "ours",
        "baseline_ready_s": "plain",
        "floor_s": "floor",
        "imports_s": "imports",
        "reading_s": "reading",
        "side_by_side_s": "side by side",
        "request_import_s": "request",
    }
    print(json.dumps({key: round(median[name], 3) for key, name in keys.items()}))


def _medians(
    checkpoint: Path, files: list[Path], arguments: argparse.Namespace
) -> dict[str, float]:
    """Return the median seconds of each program."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(arguments.repeat):  # interleaved, so that other load disturbs all alike
        for name, program in PROGRAMS.items():
            _cool(files, arguments.cold)
            seconds[name].append(_in_process(program, str(checkpoint)))
    return {name: statistics.median(found) for name, found in seconds.items()}


def _table(median: dict[str, float], gigabytes: float) -> str:
    rate = gigabytes / median["reading"]
    return (
        "| process start to | s |\n| --- | --- |\n"
        f"| imports done | {median['imports']:.2f} |\n"
        f"| weights read, {rate:.2f} GB/s, no imports | {median['reading']:.2f} |\n"
        f"| floor, the larger of these | {median['floor']:.2f} |\n"
        f"| both, side by side, and nothing else | {median['side by side']:.2f} |\n"
        f"| ready, plain `from_pretrained` | {median['plain']:.2f} |\n"
        f"| ready, ours | {median['ours']:.2f} |\n"
        f"| `kontext.contract.request` imported | {median['request']:.2f} |"
    )


def _in_process(program: str, *arguments: str) -> float:
    """Run a program in a fresh interpreter and return its seconds, from start to exit.

    It exits without cleaning up, because a boot does not include tearing torch down.
    """
    ending = "\nimport os; os._exit(0)"
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program + ending, *arguments],
        check=True,
        cwd=HERE,
        stderr=subprocess.DEVNULL if arguments else None,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return time.perf_counter() - began


def _cool(files: list[Path], what: str) -> None:
    """Remove the files, or everything, from the page cache."""
    os.sync()
    if what == "everything":
        DROP_CACHES.write_text("3")
        return
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _method(what: str) -> str:
    return f"3 to {DROP_CACHES}" if what == "everything" else "POSIX_FADV_DONTNEED on each file"


if __name__ == "__main__":
    main()
