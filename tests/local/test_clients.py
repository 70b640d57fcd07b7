"""Runpod's clients work with the local server when only their base URL is changed.

Each client runs in a process of its own, as its users run it.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.local.conftest import Serve
from tests.local.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNPOD = "https://api.runpod.ai/v2"
KEY = "rpa_KEY"
OUTPUT = {"image_url": "https://example.com/edited.png", "cost": 0.031457}
RUNPOD_SDK = "runpod-sdk@1.1.2"


async def answer(worker: Worker) -> None:
    """Run jobs, each as its prompt says, until cancelled."""
    while True:
        job = await worker.poll() or {"input": {"prompt": None}}
        match job["input"]["prompt"]:
            case None | "Take for ever":
                pass
            case "Do what cannot be done":
                await worker.finish(job["id"], error="no")
            case "Go step by step":
                await worker.stream(job["id"], "a")
                await worker.stream(job["id"], "b")
                await worker.finish(job["id"])
            case _:
                await worker.finish(job["id"], output=OUTPUT)


@pytest.fixture
def api_key() -> str | None:
    """The key that the server requires."""
    return KEY


WITH_AND_WITHOUT_KEY = pytest.mark.parametrize("api_key", [KEY, None], ids=["key", "keyless"])


@pytest_asyncio.fixture(loop_scope="module")
async def base_url(serve: Serve, api_key: str | None) -> AsyncIterator[str]:
    """The address that clients use in place of Runpod's; a worker runs the jobs there."""
    async with serve(api_key=api_key) as server:
        worker = Worker(server)
        working = asyncio.create_task(answer(worker))
        yield f"{server.url}/v2"
        working.cancel()
        server.queue.close_worker(worker.name)  # or the server would wait for its open poll


async def output_of(*command: str, directory: Path, **environment: str) -> str:
    """Run a program with the API key set; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={**os.environ, "RUNPOD_API_KEY": KEY, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def program(name: str) -> str:
    """Return the path of a program; skip the test if there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


# ---- The documented requests

CURL_OF_THE_MODEL = r"""
curl -X POST "https://api.runpod.ai/v2/black-forest-labs-flux-1-kontext-dev/runsync" \
  -H "Authorization: Bearer $RUNPOD_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "input": {
      "prompt": "Exact same bluebird, same angle and posture, now perched on a cloud in outer space",
      "image": "https://example.com/bluebird.png",
      "negative_prompt": "",
      "seed": -1,
      "num_inference_steps": 28,
      "guidance": 2,
      "size": "1024*1024",
      "output_format": "png",
      "enable_safety_checker": true
    }
  }'
"""  # noqa: E501 - as documented

CURL_OF_THE_PLATFORM = r"""
curl --request POST \
     --url https://api.runpod.ai/v2/$ENDPOINT_ID/runsync \
     -H "accept: application/json" \
     -H "authorization: $RUNPOD_API_KEY" \
     -H "content-type: application/json" \
     -d '{ "input": {  "prompt": "Hello, world!" }}'
"""

PYTHON = """
import requests

response = requests.post(
    "https://api.runpod.ai/v2/black-forest-labs-flux-1-kontext-dev/runsync",
    headers={
        "Authorization": f"Bearer {RUNPOD_API_KEY}",
        "Content-Type": "application/json",
    },
    json={
        "input": {
            "prompt": "Exact same bluebird, same angle and posture, now perched on a cloud in outer space",
            "image": "https://example.com/bluebird.png",
            "negative_prompt": "",
            "seed": -1,
            "num_inference_steps": 28,
            "guidance": 2,
            "size": "1024*1024",
            "output_format": "png",
            "enable_safety_checker": True,
        }
    },
)

result = response.json()
print(result["output"]["image_url"])
"""  # noqa: E501 - as documented

JAVASCRIPT = """
const response = await fetch(
  "https://api.runpod.ai/v2/black-forest-labs-flux-1-kontext-dev/runsync",
  {
    method: "POST",
    headers: {
      Authorization: `Bearer ${RUNPOD_API_KEY}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({
      input: {
        prompt:
          "Exact same bluebird, same angle and posture, now perched on a cloud in outer space",
        image: "https://example.com/bluebird.png",
        negative_prompt: "",
        seed: -1,
        num_inference_steps: 28,
        guidance: 2,
        size: "1024*1024",
        output_format: "png",
        enable_safety_checker: true,
      },
    }),
  }
);

const result = await response.json();
console.log(result.output.image_url);
"""


@WITH_AND_WITHOUT_KEY
@pytest.mark.parametrize("snippet", [CURL_OF_THE_MODEL, CURL_OF_THE_PLATFORM], ids=["model", "api"])
async def test_curl(base_url: str, tmp_path: Path, snippet: str) -> None:
    """The model's page sends the key as a bearer token, the operations' page sends it bare."""
    program("curl")
    command = snippet.replace(RUNPOD, base_url)

    shown = await output_of("sh", "-c", command, directory=tmp_path, ENDPOINT_ID="any")

    envelope = json.loads(shown)
    assert (envelope["status"], envelope["output"]) == ("COMPLETED", OUTPUT)


async def test_python(base_url: str, tmp_path: Path) -> None:
    """The documented snippet prints the image's URL."""
    code = f"RUNPOD_API_KEY = {KEY!r}\n" + PYTHON.replace(RUNPOD, base_url)

    shown = await output_of(sys.executable, "-c", code, directory=tmp_path)

    assert shown.strip() == OUTPUT["image_url"]


async def test_javascript(base_url: str, tmp_path: Path) -> None:
    """The documented snippet prints the image's URL."""
    code = f"const RUNPOD_API_KEY = {KEY!r}\n" + JAVASCRIPT.replace(RUNPOD, base_url)

    shown = await output_of(
        program("node"), "--input-type=module", "--eval", code, directory=tmp_path
    )

    assert shown.strip() == OUTPUT["image_url"]


# ---- Runpod's own packages, each of their methods once

RUNPOD_SYNC = """
import json
import os
import runpod

runpod.api_key = os.environ["RUNPOD_API_KEY"]
endpoint = runpod.Endpoint("any")
found = {}

found["run_sync"] = endpoint.run_sync({"prompt": "at night"}, timeout=30)
found["failed"] = endpoint.run_sync({"input": {"prompt": "Do what cannot be done"}}, timeout=30)
request = endpoint.run({"prompt": "at night"})
found["output"] = request.output(timeout=30)
found["status"] = request.status()
found["stream"] = list(endpoint.run({"prompt": "Go step by step"}).stream())
request = endpoint.run({"prompt": "Take for ever"})
found["cancel"] = request.cancel()["status"]
found["cancelled"] = request.status()
found["health"] = endpoint.health()
found["purge"] = endpoint.purge_queue()
try:
    runpod.Endpoint("any", api_key="wrong").run({"prompt": "at night"})
except RuntimeError as error:
    found["unauthorised"] = str(error)[:3]
print(json.dumps(found))
"""

RUNPOD_ASYNC = """
import asyncio
import json
import os
import sys
import runpod
from runpod import AsyncioEndpoint, http_client

runpod.endpoint_url_base = sys.argv[1]
runpod.api_key = os.environ["RUNPOD_API_KEY"]

async def main():
    found = {}
    async with http_client.AsyncClientSession() as session:
        endpoint = AsyncioEndpoint("any", session)
        request = await endpoint.run({"prompt": "at night"})
        found["output"] = await request.output(timeout=30)
        found["status"] = await request.status()
        request = await endpoint.run({"prompt": "Go step by step"})
        found["stream"] = [chunk async for chunk in request.stream()]
        request = await endpoint.run({"prompt": "Take for ever"})
        found["cancel"] = (await request.cancel())["status"]
        found["cancelled"] = await request.status()
        found["health"] = await endpoint.health()
        found["purge"] = await endpoint.purge_queue()
    print(json.dumps(found))

asyncio.run(main())
"""

RUNPOD_SDK_JS = """
import runpodSdk from "runpod-sdk";

const runpod = runpodSdk(process.env.RUNPOD_API_KEY, { baseUrl: process.env.BASE_URL });
const endpoint = runpod.endpoint("any");
const edit = { input: { prompt: "at night" } };
const found = {};

found.runSync = await endpoint.runSync(edit);
const { id } = await endpoint.run(edit);
found.statusSync = await endpoint.statusSync(id);
found.status = await endpoint.status(id);
const streamed = await endpoint.run({ input: { prompt: "Go step by step" } });
found.stream = [];
for await (const chunk of endpoint.stream(streamed.id)) found.stream.push(chunk);
const endless = await endpoint.run({ input: { prompt: "Take for ever" } });
found.cancel = await endpoint.cancel(endless.id);
found.health = await endpoint.health();
found.purge = await endpoint.purgeQueue();
console.log(JSON.stringify(found));
"""

PURGED = {"removed": 0, "status": "completed"}
WORKERS = {"idle": 0, "running": 0}


def health(completed: int, failed: int) -> dict[str, Any]:
    """Return the expected answer of `/health`."""
    jobs = {"completed": completed, "failed": failed, "inProgress": 0, "inQueue": 0, "retried": 0}
    return {"jobs": jobs, "workers": WORKERS}


@WITH_AND_WITHOUT_KEY
async def test_runpods_python_client(base_url: str, tmp_path: Path, api_key: str | None) -> None:
    """`runpod.Endpoint` works with `RUNPOD_ENDPOINT_BASE_URL` set."""
    shown = await output_of(
        sys.executable, "-c", RUNPOD_SYNC, directory=tmp_path, RUNPOD_ENDPOINT_BASE_URL=base_url
    )

    found = json.loads(shown)
    assert found.pop("unauthorised", None) == ("401" if api_key else None)
    assert found == {
        "run_sync": OUTPUT,
        "failed": None,
        "output": OUTPUT,
        "status": "COMPLETED",
        "stream": ["a", "b"],
        "cancel": "CANCELLED",
        "cancelled": "CANCELLED",
        "health": health(completed=3, failed=1),
        "purge": PURGED,
    }


@WITH_AND_WITHOUT_KEY
async def test_runpods_asyncio_client(base_url: str, tmp_path: Path) -> None:
    """`runpod.AsyncioEndpoint` works with `runpod.endpoint_url_base` set."""
    shown = await output_of(sys.executable, "-c", RUNPOD_ASYNC, base_url, directory=tmp_path)

    assert json.loads(shown) == {
        "output": OUTPUT,
        "status": "COMPLETED",
        "stream": ["a", "b"],
        "cancel": "CANCELLED",
        "cancelled": "CANCELLED",
        "health": health(completed=2, failed=0),
        "purge": PURGED,
    }


@pytest.fixture(scope="session")
def runpod_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Runpod's npm package installed."""
    directory = tmp_path_factory.mktemp("runpod-sdk")
    install = [program("npm"), "install", "--prefer-offline", "--fetch-retries=0", RUNPOD_SDK]
    installed = subprocess.run(
        install, cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install {RUNPOD_SDK}: {installed.stderr.strip()[-200:]}")
    return directory


@WITH_AND_WITHOUT_KEY
async def test_runpods_javascript_client(base_url: str, runpod_sdk: Path) -> None:
    """The npm package `runpod-sdk` works with its option `baseUrl` set."""
    (runpod_sdk / "test.mjs").write_text(RUNPOD_SDK_JS)

    shown = await output_of(program("node"), "test.mjs", directory=runpod_sdk, BASE_URL=base_url)

    found = json.loads(shown.splitlines()[-1])
    done = found.pop("runSync")
    assert (done["output"], done["completed"], done["succeeded"]) == (OUTPUT, True, True)
    assert found.pop("statusSync") == found["status"]
    assert found.pop("status").items() >= {"status": "COMPLETED", "output": OUTPUT}.items()
    assert found.pop("cancel")["status"] == "CANCELLED"
    assert found == {
        "stream": [{"output": "a"}, {"output": "b"}],
        "health": health(completed=3, failed=0),
        "purge": PURGED,
    }
