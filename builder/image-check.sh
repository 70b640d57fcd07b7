#!/usr/bin/env bash
# Builds the Dockerfile unchanged and runs the image, without a registry, the Hub or a GPU.
#
# Needs Debian, root, Debian's and Python's package servers, and 30 GB of disk (10 GB with
# torch's CPU build, which PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL must name). Where overlay cannot be
# mounted, for example in a container, STORAGE_DRIVER=vfs works too, but copies each layer: it takes
# over 60 GB and many times as long. Prints what it replaces.
set -euo pipefail
cd "$(dirname "$0")/.."

WORK=$PWD/build/image-check
PYTHON=.venv/bin/python
export PYTHONPATH=benchmarks  # for the tiny pipeline with random weights
MODEL=black-forest-labs/FLUX.1-Kontext-dev
TOKEN=hf_stand_in_$RANDOM$RANDOM$RANDOM
PATH_OF_IMAGES=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export TMPDIR=$WORK/tmp TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

say() { printf '\n== %s s: %s\n' "$SECONDS" "$*"; }
replaced() { printf '   replaced: %s\n' "$*"; }
builder() {
    buildah --root "$WORK/storage" --runroot "$WORK/run" \
        --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"
}

clean() {
    [ -z "${hub_pid:-}" ] || kill "$hub_pid"
    [ ! -d "$WORK/storage" ] || { builder rm --all && builder rmi --all --force; } > /dev/null
    rm -rf --one-file-system "$WORK"
}

install_tools() {
    [ -x $PYTHON ] || make .venv/installed
    command -v buildah debootstrap > /dev/null && return
    apt-get update && apt-get install --yes --no-install-recommends buildah debootstrap
}

# Builds the base image from the same release of Debian, whose own Python has the same version.
make_base() {
    local image release container
    image=$(sed -nE 's/^FROM .*(python:\S+) AS base$/\1/p' Dockerfile)
    release=${image##*-}
    replaced "$image by debootstrap's $release with Debian's Python"
    debootstrap --variant=minbase --include=ca-certificates,libpython3-dev,python3,python3-venv \
        "$release" "$WORK/rootfs" > "$WORK/debootstrap.log"
    container=$(builder from scratch)
    builder add --quiet "$container" "$WORK/rootfs" / > /dev/null
    builder config --env "PATH=$PATH_OF_IMAGES" "$container"
    builder commit --quiet --rm "$container" "docker.io/library/$image" > /dev/null
}

start_hub() {
    replaced "huggingface.co by a stand-in on loopback, with tiny weights of the same classes"
    $PYTHON - "$WORK/hub" "$MODEL" <<'END'
import sys
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import flux_model
from kontext.inference import stand_in

root, model = Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2])
for part in stand_in.classifier():
    part.save_pretrained(root / "Falconsai/nsfw_image_detection")
flux_model.pipeline().save_pretrained(model)
(model / "LICENSE.md").write_text("FLUX.1 [dev] Non-Commercial License")
(model / "flux1-kontext-dev.safetensors").write_text("the same weights again")
second = root / "CompVis/stable-diffusion-safety-checker"
sizes = ("hidden_size", "intermediate_size", "projection_dim")
tiny = dict.fromkeys(sizes, 16) | {"num_hidden_layers": 1, "num_attention_heads": 1}
checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=tiny, text_config=tiny))
checker.config.save_pretrained(second)
torch.save(checker.state_dict(), second / "pytorch_model.bin")
CLIPImageProcessorPil().save_pretrained(second)
END
    $PYTHON tests/support/stand_in_hub.py "$WORK/hub" --gated $MODEL --token "$TOKEN" \
        > "$WORK/hub.address" &
    hub_pid=$!
    until [ -s "$WORK/hub.address" ]; do sleep 0.1; done
    printf %s "$TOKEN" > "$WORK/token"
}

# Gives the build this machine's CA bundle, in case a proxy re-signs TLS, and its package indexes.
mounts=()
share_machine() {
    local place bundle=/etc/ssl/certs/ca-certificates.crt
    mounts+=(--volume "$bundle:$bundle:ro" --volume "$WORK/pip.conf:/etc/pip.conf:ro")
    {
        echo "[global]"
        [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
        [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || echo "extra-index-url = $PIP_EXTRA_INDEX_URL"
        [ -z "${PIP_FIND_LINKS:-}" ] || echo "find-links = $PIP_FIND_LINKS"
    } > "$WORK/pip.conf"
    [ "$(wc -l < "$WORK/pip.conf")" = 1 ] \
        || replaced "pip's index by your own: $(tail -n +2 "$WORK/pip.conf" | paste -sd ' ')"
    for place in ${PIP_FIND_LINKS:-}; do
        [ ! -d "$place" ] || mounts+=(--volume "$place:$place:ro")
    done
}

build() {
    local tag=$1
    shift
    builder bud --isolation chroot --layers --pull-never "${mounts[@]}" \
        --build-arg HF_ENDPOINT="$(cat "$WORK/hub.address")" "$@" --tag "$tag" . \
        > "$WORK/$tag.log" 2>&1 || { tail -40 "$WORK/$tag.log"; return 1; }
    builder images --format '   {{.Name}}: {{.Size}}' "$tag"
}

# Runs a command in an image as the image's user.
inside() {
    local tag=$1 container
    shift
    container=$(builder from --pull-never "$tag")
    builder run --isolation chroot "${options[@]}" "$container" -- timeout 300 "$@" < /dev/null
    builder rm "$container" > /dev/null
}

run_hub_tests() {
    local job
    options=()
    while read -r setting; do options+=(--env "$setting"); done < <($PYTHON -c '
import json
for setting in json.load(open(".runpod/tests.json"))["config"]["env"]:
    print(setting["key"], setting["value"], sep="=")')
    mapfile -t command < <(builder inspect --type image \
        --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' kontext)
    while read -r job; do
        inside kontext "${command[@]}" --test_input "$job" | tee "$WORK/job.log"
        grep --quiet "'image_url': 'http.*'cost': 0\.[0-9]" "$WORK/job.log"
    done < <($PYTHON -c '
import json
for test in json.load(open(".runpod/tests.json"))["tests"]:
    print(json.dumps({"input": test["input"]}))')
}

check_baked() {
    options=()
    inside baked python -c '
import os, time
start = time.perf_counter()
import torch
from kontext.inference import editor, model, safety, weights
print(f"   as user {os.getuid()}: imports took {time.perf_counter() - start:.1f} s")
assert os.getuid() == 1000 and os.path.exists(torch.__cached__), "root, or no bytecode"
found = weights.find("black-forest-labs/FLUX.1-Kontext-dev", None)
files = sorted(path.name for path in found.path.iterdir())
print(f"   {found}: {files}")
assert "flux1-kontext-dev.safetensors" not in files, "the weights are there twice"
model.load("baked", found, device="cpu")
safety.load("/models/nsfw_image_detection", 0.85, "/models/stable-diffusion-safety-checker", "cpu")
print("   the pipeline and both safety checkers load offline from the image")
assert torch.compile(torch.sin)(torch.zeros(3)).sum() == 0
print("   torch.compile finds its compiler")
'
}

check_token() {
    local container
    container=$(builder from --pull-never baked)
    if grep --recursive --files-with-matches "$TOKEN" "$(builder mount "$container")" \
        || builder inspect --type image baked | grep "$TOKEN"; then
        echo "the token has leaked into the image" >&2
        return 1
    fi
    echo "   the token is in no file and in no line of the image's history"
}

[ "$(id -u)" = 0 ] || { echo "image-check needs root, to make file systems" >&2; exit 1; }
trap clean EXIT
clean
mkdir -p "$TMPDIR"
say "tools"
install_tools
say "base image"
make_base
start_hub
share_machine
say "build, as on Runpod: no token, no model"
build kontext
say "the Hub's own tests, with the image's command"
run_hub_tests
say "build with the gated model and the second opinion"
build baked --build-arg BAKE_MODEL=true --build-arg BAKE_SECOND_OPINION=true \
    --secret "id=HF_TOKEN,src=$WORK/token"
check_baked
check_token
say "done"
