"""`make run`: from a job to an image that shows input and result."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageStat

ROOT = Path(__file__).parent.parent


def test_it_saves_the_result_and_the_comparison_and_prints_their_paths(tmp_path: Path) -> None:
    """The input is on the left; the result, here without colours, is on the right."""
    job = json.loads((ROOT / "test_input.json").read_text())
    job["input"] |= {"num_inference_steps": 4}
    (tmp_path / "job.json").write_text(json.dumps(job))
    arguments = ["--prompt", "black and white", "--size", "384*256"]
    paths = ["--test_input", str(tmp_path / "job.json"), "--output", str(tmp_path)]
    command = [sys.executable, "-m", "kontext.demo", *arguments, *paths]
    environment = {**os.environ, "MIN_GENERATION_MEGAPIXELS": "0"}  # small images, quickly
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    saved, comparison = re.findall(r" (?:is|are) (/\S+)$", done.stdout, re.MULTILINE)
    with Image.open(saved) as after, Image.open(comparison) as both:
        left, right = both.crop((0, 0, 256, 256)), both.crop((256 + 16, 0, *both.size))
        assert after.size == (384, 256)
        assert right.tobytes() == after.tobytes()
        assert saturation(left) > 10 * saturation(right)


def saturation(image: Image.Image) -> float:
    """Return the average saturation of an image, 0 to 255."""
    return float(ImageStat.Stat(image.convert("HSV")).mean[1])
