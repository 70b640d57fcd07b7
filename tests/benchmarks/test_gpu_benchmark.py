"""`benchmarks/gpu.py` runs from end to end without a GPU; if cut off, it keeps its figures."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import gpu_plans
import gpu_work
import pytest
import torch
from gpu_accuracy import accuracy
from gpu_boot import boot
from gpu_results import OtherMachineError, Results
from gpu_speed import speed
from gpu_subject import Subject
from gpu_targets import derive

from kontext.errors import BootError
from kontext.inference.mode import Card
from kontext.settings import Mode

Row = dict[str, Any]

PROGRAM = Path(__file__).parents[2] / "benchmarks/gpu.py"
MACHINE = {"card": "NVIDIA H100 80GB HBM3", "torch": "2.13.0"}
SPEED = {
    "median_seconds",
    "seconds",
    "first_job_seconds",
    "phases",
    "tflops",
    "peak_gb",
    "planned_peak_gb",
    "usd_per_image",
    "repeatable",
    "steps_computed",
}


@pytest.fixture(scope="module")
def speed_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Row]]:
    """The rows of every plan's speed: by part, then by plan."""
    latents = tmp_path_factory.mktemp("latents")
    found: dict[str, dict[str, Row]] = {}
    for plan in "fast", "exact", "turbo", "eager":
        for part, name, row in speed(Subject.tiny(), plan, latents):
            rows = found.setdefault(part, {})
            rows[name] = rows.get(name, {}) | row
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the JSON file; its folder does not exist yet."""
    return tmp_path / "results" / "gpu.json"


@pytest.fixture
def results(path: Path) -> Results:
    """A results file of an H100, with one row."""
    results = Results(path, derive)
    results.set_machine(MACHINE)
    results.keep("rates", "attention: cuDNN", {"seconds": 0.004})
    return results


def test_the_edit_is_the_same_in_every_call_and_process() -> None:
    """Otherwise errors between plans would include differences between images."""
    first, second = (Subject.tiny().edit() for _ in range(2))

    assert first == second
    assert first.reference is not None
    digest = hashlib.sha256(first.reference.tobytes()).hexdigest()
    assert digest.startswith("01c602df64d8eb9e")


def test_each_plan_is_measured_beside_eager_diffusers(
    speed_rows: dict[str, dict[str, Row]],
) -> None:
    rows = speed_rows["speed"]

    assert set(rows) == {"eager", *get_args(Mode)}
    assert all(row.keys() >= SPEED for row in rows.values())
    assert len(rows["eager"]["seconds"]) == 1
    assert all(len(rows[mode]["seconds"]) == 4 for mode in get_args(Mode))
    assert rows["turbo"]["steps_computed"] < rows["fast"]["steps_computed"] == rows["fast"]["steps"]


def test_no_plan_is_compiled_again_and_each_repeats_itself(
    speed_rows: dict[str, dict[str, Row]],
) -> None:
    """The other edits differ in size and prompt, with and without a negative prompt."""
    rows = speed_rows["speed"]

    assert {rows[mode]["recompiles"] for mode in get_args(Mode)} == {0}
    assert all(rows[mode]["repeatable"] for mode in get_args(Mode))


def test_plans_are_compared_by_the_latents_of_the_same_edit(
    speed_rows: dict[str, dict[str, Row]],
) -> None:
    """The stand-ins for `exact` and eager diffusers compute the same on a CPU."""
    errors = {name: row["relative_error"] for name, row in speed_rows["distance"].items()}

    assert errors["exact"] == errors["eager"] == 0 < errors["fast"] < errors["turbo"] < 0.1


def test_the_longest_kernels_of_one_step_are_named_with_their_share(
    speed_rows: dict[str, dict[str, Row]],
) -> None:
    profile = speed_rows["profile"]["fast"]
    shares = [kernel["share"] for kernel in profile["kernels"]]

    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    assert 0 < profile["seconds"] < speed_rows["speed"]["fast"]["median_seconds"]


def test_coarser_rounding_gives_larger_errors_against_float32() -> None:
    """In one step bfloat16 is off by less than one in a hundred, and 8 bits by more."""
    exact, turbo = (
        next(accuracy(Subject.tiny(), plan))[2]["step_error_float32"] for plan in ("exact", "turbo")
    )

    assert 0 < exact < turbo < 0.1
    assert exact < 0.01


@pytest.mark.timeout(600)  # four processes import torch, one after the other
def test_the_boot_is_timed_cold_and_warm() -> None:
    """It is timed beside reading alone and plain loading."""
    rows = {name: row for _, name, row in boot(Subject.tiny())}

    assert list(rows) == [
        "ours, cold cache",
        "ours, warm cache",
        "reading alone",
        "plain from_pretrained",
    ]
    assert all(row["seconds"] > 0 for row in rows.values())


def test_a_call_that_is_killed_keeps_its_figures_and_a_second_call_adds_to_them(path: Path) -> None:
    """It is killed after its first figures, as on a machine whose lease ends."""
    command = [sys.executable, str(PROGRAM), "--tiny", "--out", str(path)]
    with subprocess.Popen(
        [*command, "rates"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        next(line for line in program.stdout if line.startswith("  rates bfloat16: projection"))
        os.killpg(program.pid, signal.SIGKILL)
    cut_off = json.loads(path.read_text())
    again = [*command, "speed", "--only", "eager", "float8-attention"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)

    assert cut_off["rates"]["bfloat16: projection"]["seconds"] > 0
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    assert document["rates"].items() >= cut_off["rates"].items()
    assert document["speed"]["eager"]["x_eager"] == 1
    assert "speed float8-attention" in document["left_out"]
    assert "| eager |" in done.stdout


def test_no_task_is_started_after_the_time_limit(path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--tiny", "--out", str(path), "--minutes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    left_out = json.loads(path.read_text())["left_out"]
    plans = ["fast", "exact", "turbo", "float8-attention", "eager"]
    assert list(left_out) == ["rates all", *(f"speed {plan}" for plan in plans)]
    assert set(left_out.values()) == {"0 minutes were over"}


def test_findings_are_added_to_existing_rows(path: Path, results: Results) -> None:
    results.keep("speed", "fast", {"seconds": [5.0]})
    results.keep("speed", "fast", {"recompiles": 0})
    again = Results(path, derive).read()

    assert again["rates"]["attention: cuDNN"]["seconds"] == 0.004
    assert again["speed"]["fast"].items() >= {"seconds": [5.0], "recompiles": 0}.items()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_reason_is_removed_once_the_row_is_measured(results: Results) -> None:
    results.leave_out("speed", "fast", "7 minutes were over")
    results.fail("speed", "exact", "its process was ended by signal 11")
    results.begin("speed", "fast")

    assert results.read()["left_out"] == {}
    assert results.read()["failed"] == {"speed exact": "its process was ended by signal 11"}


def test_figures_of_another_card_are_refused(path: Path, results: Results) -> None:
    before = path.read_text()

    with pytest.raises(OtherMachineError, match=r"figures of card NVIDIA H100 80GB HBM3, .* H200"):
        results.set_machine(MACHINE | {"card": "NVIDIA H200"})
    assert path.read_text() == before


def test_a_plan_that_this_version_does_not_have_is_left_out() -> None:
    card = Card("NVIDIA H100 80GB HBM3", int(80e9), (9, 0))
    gpu_plans.PLANS["of tomorrow"] = gpu_plans.Recipe("fast", {"of_tomorrow": 1})
    try:
        with pytest.raises(gpu_plans.NotMeasurableError, match="of_tomorrow"):
            gpu_plans.find("of tomorrow", card)
    finally:
        del gpu_plans.PLANS["of tomorrow"]
    turbo = gpu_plans.find("turbo", card)
    assert turbo is not None
    assert turbo.step_cache


def test_plain_diffusers_is_left_out_where_it_would_not_fit() -> None:
    with pytest.raises(BootError, match="cannot hold MODE=exact"):
        gpu_plans.find(gpu_plans.EAGER, Card("NVIDIA GeForce RTX 4090", int(24e9), (8, 9)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure this GPU")
def test_on_a_machine_without_a_gpu_it_fails_with_one_sentence(path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("no CUDA device is available")
    assert not path.exists()


def test_separate_and_joined_products_both_cover_all_linear_layers() -> None:
    """Each block has weights of 12 times the width squared."""
    for counts in gpu_work.SEPARATE, gpu_work.JOINED:
        squares = sum(
            times * gpu_work.PRODUCTS[name][0] * gpu_work.PRODUCTS[name][1]
            for name, times in counts.items()
        )
        assert squares == 12 * (gpu_work.DOUBLE_BLOCKS + gpu_work.SINGLE_BLOCKS)


def test_the_floor_is_the_time_of_products_and_attention_on_this_card() -> None:
    """The faster split of the products counts, and the fastest attention that the plan allows."""
    rates: dict[str, Row] = {
        "attention: cuDNN": {"seconds": 3e-3},
        "attention: FlashAttention 3": {"skipped": "not installed"},
        "attention: FlashAttention 3, float8": {"seconds": 1e-3},
        **{f"bfloat16: {name}": {"seconds": 1e-3} for name in gpu_work.PRODUCTS},
    }

    found = gpu_work.floor(rates, "bfloat16", "bfloat16", steps=10)

    joined = sum(gpu_work.JOINED.values())
    assert found == pytest.approx(10 * (joined * 1e-3 + 57 * 3e-3))
    assert gpu_work.floor(rates, "float8", "bfloat16", steps=10) is None


@pytest.mark.parametrize(
    ("card", "fast", "outcomes"),
    [
        ("NVIDIA H100 80GB HBM3", 4.9, ("met", "met")),
        ("NVIDIA H200", 5.1, ("MISSED", "met")),
        ("NVIDIA L40S", 4.9, ("open", "met")),
        ("NVIDIA H100 80GB HBM3", 6.0, ("MISSED", "MISSED")),
    ],
)
def test_targets_are_met_or_missed_or_open(
    card: str, fast: float, outcomes: tuple[str, str]
) -> None:
    speed = {"eager": speed_row(13.0), "fast": speed_row(fast)}
    document: dict[str, Any] = {"machine": {"card": card}, "speed": speed}
    derive(document)

    found = {target["target"]: target["outcome"] for target in document["targets"]}
    assert outcomes == (
        found["`fast`, seconds on an H100 or H200"],
        found["`fast`, times as fast as eager, every step computed"],
    )
    assert found["`exact`, times as fast as eager"] == "open"
    assert found["`fast`, peak GB within the plan"] == "met"
    assert found["`fast`, first job beside the median"] == "MISSED"


def test_a_warm_boot_is_judged_without_the_reading_of_the_weights() -> None:
    starts = {"ours, warm cache": {"seconds": 50.0}, "reading alone": {"seconds": 21.0}}
    document: dict[str, Any] = {"machine": {"card": "NVIDIA H200"}, "boot": starts}
    derive(document)

    assert document["targets"][-1] | {"figure": 29.0, "outcome": "met"} == document["targets"][-1]


def speed_row(seconds: float) -> Row:
    """Return the row of a plan whose first job takes a fifth longer than the others."""
    return {
        "median_seconds": seconds,
        "first_job_seconds": 1.2 * seconds,
        "peak_gb": 20.0,
        "planned_peak_gb": 29.1,
        "steps": 28,
        "steps_computed": 28,
        "products": "bfloat16",
        "attention": "bfloat16",
    }
