"""Compile the transformer's blocks for one plan on one card, and count kernels and spilled bytes.

    python -m codegen_check.blocks sm_90 '{"transformer": "float8"}' ours

Prints one line of JSON. With `diffusers` instead of `ours` the library's own blocks are taken,
whose kernels are counted but not compiled. Each case needs its own process, because torch and
torchao have process-wide settings.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton.backends.nvidia
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx
from torch._inductor.graph import GraphLowering
from torch.nn import functional

from codegen_check.cards import CARDS
from codegen_check.pretend import card
from codegen_check.subject import inputs, transformer
from kontext.inference import acceleration, attention
from kontext.inference.plan import Plan

IMAGE_TOKENS = 2 * 1024 * 1024 // 256
"""Tokens of a result and a reference of 1024 * 1024 pixels."""

_BLOCKS = acceleration.OUTER_BLOCKS + 1
"""Blocks of each kind: enough that one is an inner block, which may attend in float8."""

_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


class KernelCounts:
    """Counts the kernels of each kind of block, and the bytes that ptxas spills."""

    def __init__(self) -> None:
        self.spilled: dict[str, int] = {}
        """Spilled bytes by kernel, in the configuration that spills least, which torch chooses."""
        self.launches: dict[str, dict[str, int]] = {}
        self._block = ""

    def compile(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor], **_: object) -> Any:  # noqa: ANN401
        """Compile a graph, which is one kind of block; return it to be run with fake tensors."""
        has_text_stream = any("context" in node.name for node in graph.graph.nodes)
        self._block = "double" if has_text_stream else "single"
        compile_fx(graph, inputs, config_patches=acceleration.INDUCTOR_OPTIONS)
        return graph.forward

    def count_launches(self, code: str) -> None:
        """Count the launches in the code generated for a graph."""
        body = code[code.index("def call(") :]
        self.launches[self._block] = {
            "triton": len(re.findall(r"\btriton_\w+\.run\(", body)),
            "products": len(re.findall(r"extern_kernels\.\w*mm\w*\(|aten\.\w*mm\w*\.\w+\(", body)),
            "attention": len(re.findall(r"_attention\.default\(|_float8\.default\(", body)),
        }

    def count_spills(self, kernel: Any) -> None:  # noqa: ANN401
        """Assemble a Triton kernel a second time, to read what the assembler reports."""
        spilled, name = _spilled_bytes(kernel.asm["ptx"]), kernel.metadata.name
        self.spilled[name] = min(spilled, self.spilled.get(name, spilled))


def _spilled_bytes(ptx: str) -> int:
    """Return the bytes of a PTX file that ptxas spills from registers."""
    architecture = re.search(r"^\.target (sm_(\d+)\w*)", ptx, re.MULTILINE)
    assert architecture is not None  # noqa: S101 - the first lines of every PTX file
    tool = "ptxas-blackwell" if int(architecture[2]) >= 100 else "ptxas"  # noqa: PLR2004
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = subprocess.run(
            [_TOOLS / tool, "-v", f"--gpu-name={architecture[1]}", file.name, "-o", "/dev/null"],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
    return sum(int(count) for count in re.findall(r"(\d+) bytes spill stores", said))


def compile_ours(built: FluxTransformer2DModel, plan: Plan, backend: Callable[..., Any]) -> None:
    """Prepare and compile a transformer as the worker does."""
    pipeline: Any = SimpleNamespace(
        transformer=built, text_encoder_2=nn.Module(), device=torch.device("cpu")
    )
    acceleration.prepare(pipeline, plan)
    acceleration.compile(pipeline, backend)


def compile_diffusers(
    built: FluxTransformer2DModel, plan: Plan, backend: Callable[..., Any]
) -> None:
    """Quantise and compile a transformer's blocks as the library has them."""
    if plan.attention == "cudnn":
        built.set_attention_backend("_native_cudnn")
    for blocks in built.transformer_blocks, built.single_transformer_blocks:
        for name, layer in blocks.named_modules():
            if isinstance(layer, nn.Linear) and ".norm" not in name:
                acceleration.quantise(layer, plan.transformer)
    built.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)


def _attention(plan: Plan) -> Callable[..., torch.Tensor]:
    """Return the attention that torch would choose on a card, without asking the driver."""
    aten = torch.ops.aten

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object
    ) -> torch.Tensor:
        if plan.attention == "cudnn":
            attended = aten._scaled_dot_product_cudnn_attention(query, key, value, None, False)
        else:
            attended = aten._scaled_dot_product_flash_attention(query, key, value)
        return attended[0]  # type: ignore[no-any-return]

    return attend


def check(capability: str, plan: Plan, whose: str) -> dict[str, Any]:
    """Compile one case and return what was counted.

    Raises:
        Exception: torch, Triton or ptxas cannot compile it, or a graph breaks.
    """
    counts = KernelCounts()
    real = GraphLowering.compile_to_module

    def compile_to_module(graph: GraphLowering) -> Any:  # noqa: ANN401
        module = real(graph)
        assert module.__file__ is not None  # noqa: S101
        counts.count_launches(Path(module.__file__).read_text())
        return module

    with (
        card(CARDS[capability], counts.count_spills if whose == "ours" else None),
        mock.patch.object(GraphLowering, "compile_to_module", compile_to_module),
        mock.patch.object(attention, "activate_flash_attention_impl"),
        mock.patch.object(functional, "scaled_dot_product_attention", _attention(plan)),
    ):
        built = transformer(_BLOCKS, "cuda")
        (compile_ours if whose == "ours" else compile_diffusers)(built, plan, counts.compile)
        with torch.no_grad():
            built(**inputs(IMAGE_TOKENS, "cuda"))
    return {
        "launches": counts.launches,
        "graphs": counters["stats"]["unique_graphs"],
        "kernels": len(counts.spilled),
        "spilled": sum(counts.spilled.values()),
    }


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1], Plan(**json.loads(sys.argv[2])), sys.argv[3])))
