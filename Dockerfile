# The worker's image. Build it with BuildKit, which is Docker's default:
#
#   docker build --tag kontext .
#
# FLUX.1 Kontext [dev] comes from Runpod's model cache or a network volume. To put its 34 GB into
# the image instead, accept its licence and give the build your Hugging Face token as a secret:
#
#   HF_TOKEN=... docker build --tag kontext --build-arg BAKE_MODEL=true \
#       --secret id=HF_TOKEN,env=HF_TOKEN .

# The Python that the tests run with. Runpod runs amd64 only, so an ARM Mac must not build its own.
# A tag moves with security updates; for builds that never change, append the digest that
# `docker buildx imagetools inspect python:3.11-slim-bookworm` prints.
# hadolint ignore=DL3029
FROM --platform=linux/amd64 python:3.11-slim-bookworm AS base


FROM base AS dependencies
ENV PATH=/venv/bin:$PATH
COPY builder/requirements.txt /
# torch brings CUDA's libraries as wheels. Without bytecode, imports cost a cold start 17 s more,
# and the worker's user cannot write it; checked by hash it survives whatever touches file times.
# The excluded file is Python 3.12's syntax.
RUN python3 -m venv /venv \
    && pip install --no-cache-dir --no-compile --requirement /requirements.txt \
    && python3 -m compileall -q -x 'py312_intrinsics' --invalidation-mode unchecked-hash /venv/lib


FROM dependencies AS weights
COPY builder/fetch_weights.py /
# A mirror of the Hub, for those behind one.
ARG HF_ENDPOINT

ARG SAFETY_REVISION=04367978d3474804ab1a00a9bd6548b741764069
RUN python3 /fetch_weights.py Falconsai/nsfw_image_detection "$SAFETY_REVISION" \
        config.json preprocessor_config.json model.safetensors

# Used when SAFETY_SECOND_OPINION_PATH=/models/stable-diffusion-safety-checker is set.
ARG BAKE_SECOND_OPINION=false
ARG SECOND_OPINION_REVISION=cb41f3a270d63d454d385fc2e4f571c487c253c5
RUN [ "$BAKE_SECOND_OPINION" != true ] || python3 /fetch_weights.py \
        CompVis/stable-diffusion-safety-checker "$SECOND_OPINION_REVISION" \
        config.json preprocessor_config.json pytorch_model.bin

# The components in diffusers' layout; the same weights as single files would double the image.
ARG BAKE_MODEL=false
ARG MODEL_REVISION=24e9dedc4ef646698dc8eb4e18ae2cec3c9fea0d
RUN --mount=type=secret,id=HF_TOKEN [ "$BAKE_MODEL" != true ] \
    || HF_TOKEN_PATH=/run/secrets/HF_TOKEN python3 /fetch_weights.py \
        black-forest-labs/FLUX.1-Kontext-dev "$MODEL_REVISION" \
        LICENSE.md model_index.json 'scheduler/*' 'text_encoder/*' 'text_encoder_2/*' \
        'tokenizer/*' 'tokenizer_2/*' 'transformer/*' 'vae/*'


# Our own code, apart from /venv: a change to it is a layer of kilobytes.
FROM dependencies AS application
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation --target /app . \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app
COPY handler.py test_input.json /app/


FROM base
# TorchInductor and Triton compile at run time. Debian keeps only the newest version of a package,
# so a pinned one would break the build at its next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 kontext
COPY --from=dependencies /venv /venv
COPY --from=weights /models /models
COPY --from=application /app /app

# The container toolkit mounts the driver only where it is asked to; CUDA's own images ask so.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 1000
CMD ["python", "-u", "/app/handler.py"]
