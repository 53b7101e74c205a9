# The service as an image, in two flavours:
#   docker build --platform linux/amd64 -t hate-speech-detection .
#     for GPUs on Runpod, with the published checkpoint inside
#   docker build --build-arg FLAVOUR=cpu -t hate-speech-detection:cpu .
#     for CPUs, with the small embedded checkpoint; it downloads no weights
#   docker run --rm hate-speech-detection                          scores test_input.json, exits
#   docker run --rm -p 8000:8000 -e BEARER_TOKEN=… hate-speech-detection server          HTTP
# docs/deploy.md and docs/runpod.md have the next steps. scripts/check-image builds both flavours on
# a small base image. It needs BuildKit (Docker 23, or DOCKER_BUILDKIT=1) or buildah: these skip the
# stages of the other flavour. For buildah, always name the flavour.
# hadolint takes TOKENIZER for a token; a test looks for names of secrets.
# hadolint global ignore=DL3064
ARG FLAVOUR=gpu
# What else is inside, of files, postgres, redis, grpc and otel: --build-arg EXTRAS="postgres redis".
# The CPU flavour always has files: pyarrow, 176 MB, without which the server refuses uploads.
ARG EXTRAS=

# For the GPU flavour any image works that has Python 3.11 or 3.12, pip, and the torch that
# requirements.txt names. Two public repositories, or more, pin each of these digests; no build of
# this file has pulled them yet.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4
# For the CPU flavour any image works that has Python 3.11 or 3.12 and pip.
ARG CPU_BASE_IMAGE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

# The image's history records this URL, so it must not hold a user or password.
ARG CHECKPOINT=https://snet-open-models.s3.amazonaws.com/hate-speech-detection/model_7
# The file's SHA-256. Its authors publish none: if this is empty, any file is accepted, and the build
# prints the line that pins it. config.json records the SHA-256.
ARG CHECKPOINT_SHA256=
ARG TOKENIZER=vinai/bertweet-large
# A branch can move; give a commit for repeatable builds. config.json records what was used.
ARG TOKENIZER_REVISION=main
ARG HF_ENDPOINT=https://huggingface.co
# Number format of the weights on disk. float32 takes twice the space; choose it for CPUs.
ARG DTYPE=float16


FROM ${BASE_IMAGE} AS gpu-base
ARG BASE_IMAGE
LABEL org.opencontainers.image.base.name="${BASE_IMAGE}"
ENV MODEL_DIR=/app/checkpoints/bertweet-large


# torch's CPU build, in a layer of its own. It is not in the lock file, because its builds differ by
# device. Nothing is done where the base image has it.
FROM ${CPU_BASE_IMAGE} AS cpu-base
ARG CPU_BASE_IMAGE
ARG TORCH_INDEX_URL
RUN python3 -m pip install --no-cache-dir --break-system-packages \
        --index-url "$TORCH_INDEX_URL" torch==2.13.0
LABEL org.opencontainers.image.base.name="${CPU_BASE_IMAGE}"
# Runpod's CPU endpoints: without it, a worker without a GPU takes that for a fault.
ENV DEVICE=cpu


FROM ${FLAVOUR}-base AS base


# The lock file's entries for the packages that fetching imports. The next stage copies them as a
# file, so the download depends on these entries and not on the rest of the lock.
FROM base AS fetching-pins
COPY docker/select_pins.py requirements.lock /build/
RUN python3 /build/select_pins.py /build/requirements.lock \
        anyio h11 httpcore2 httpx2 idna tqdm truststore typing-extensions \
        > /build/requirements.txt


# Downloads 1.4 GB in a layer that depends only on the fetching code. The file is a pickle; only this
# stage and the stage that converts it have it.
FROM base AS fetching
COPY --from=fetching-pins /build/requirements.txt /build/
RUN python3 -m venv --without-pip /opt/fetching \
    && python3 -m pip --python /opt/fetching/bin/python install \
        --no-cache-dir --require-hashes --no-deps -r /build/requirements.txt
COPY docker/fetch.py /build/
# hatespeech/__init__.py is left out, so that an edit of it does not repeat the download. Without it
# Python treats hatespeech as a namespace package.
COPY hatespeech/bars.py hatespeech/locks.py hatespeech/retry.py hatespeech/urls.py \
     /build/hatespeech/
COPY hatespeech/fetching/__init__.py hatespeech/fetching/http.py \
     hatespeech/fetching/workplace.py /build/hatespeech/fetching/
ARG CHECKPOINT
RUN /opt/fetching/bin/python /build/fetch.py "$CHECKPOINT" /fetched


# The base image's Python may be managed by its distribution (PEP 668), and its torch is built for
# its CUDA. So all other packages go into an environment of their own that sees these two.
FROM base AS packages
COPY docker/constraints.py docker/install_packages docker/left_out.txt docker/select_pins.py \
     requirements.lock requirements.txt requirements-extras.lock /build/
ARG FLAVOUR
ARG EXTRAS
RUN /build/install_packages


# Verifies and converts the downloaded file: download.py finds it where its own download would be.
FROM packages AS gpu-checkpoint
RUN python3 /build/select_pins.py /build/requirements.lock \
        filelock fsspec hf-xet huggingface-hub > /build/hub.txt \
    && python3 -m pip --python /opt/worker/bin/python install \
        --no-cache-dir --require-hashes --no-deps -r /build/hub.txt
WORKDIR /app
COPY download.py ./
# Only what the conversion uses: an edit of the HTTP front does not repeat it.
COPY hatespeech/*.py hatespeech/
COPY hatespeech/text hatespeech/text
COPY hatespeech/model hatespeech/model
COPY hatespeech/engine hatespeech/engine
COPY hatespeech/fetching hatespeech/fetching
COPY --from=fetching /fetched checkpoints/.bertweet-large.partial
ARG CHECKPOINT
ARG CHECKPOINT_SHA256
ARG TOKENIZER
ARG TOKENIZER_REVISION
ARG HF_ENDPOINT
ARG DTYPE
RUN if [ -z "$CHECKPOINT_SHA256" ]; then \
        sum=$(sha256sum checkpoints/.bertweet-large.partial/checkpoint.part); \
        echo "warning: the checkpoint is not pinned; if you trust this file, pin it with" \
            "--build-arg CHECKPOINT_SHA256=${sum%% *}" >&2; \
    fi; \
    /opt/worker/bin/python download.py --checkpoint "$CHECKPOINT" --tokenizer "$TOKENIZER" \
        --revision "$TOKENIZER_REVISION" --dtype "$DTYPE" \
        ${CHECKPOINT_SHA256:+--sha256 "$CHECKPOINT_SHA256"} \
    && mkdir -p /made/checkpoints \
    && mv checkpoints/bertweet-large /made/checkpoints/


FROM base AS cpu-checkpoint
COPY hatespeech/checkpoints/mini /made/hatespeech/checkpoints/mini


FROM ${FLAVOUR}-checkpoint AS checkpoint


FROM base
ARG VERSION=0.1.0
# The commit that the image is built from.
ARG REVISION=
LABEL org.opencontainers.image.title="hate-speech-detection" \
      org.opencontainers.image.description="Scores tweets: hate, abusing, neutral, spam. A Runpod serverless worker." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/worker/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    HOST=0.0.0.0 \
    JOBS_DB=/home/worker/jobs.sqlite3
RUN useradd --system --uid 10001 --user-group --create-home worker
WORKDIR /app
# Layers that change rarely come first: a new release of the code pushes a few hundred kilobytes.
COPY --from=packages /opt/worker /opt/worker
COPY --from=checkpoint /made ./
COPY docker/entrypoint docker/healthcheck.py docker/
COPY app.py server.py test_input.json ./
COPY hatespeech/*.py hatespeech/
COPY hatespeech/text hatespeech/text
COPY hatespeech/model hatespeech/model
COPY hatespeech/engine hatespeech/engine
COPY hatespeech/formats hatespeech/formats
COPY hatespeech/telemetry hatespeech/telemetry
COPY hatespeech/pages hatespeech/pages
COPY hatespeech/worker hatespeech/worker
COPY hatespeech/serving hatespeech/serving
# The worker's user cannot write here, so without this every start would compile the code.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash app.py server.py hatespeech
USER 10001:10001
# For HTTP, if started as `docker run IMAGE server`.
EXPOSE 8000
# The start period is long because a start imports torch and reads the weights. A queue worker is
# healthy as long as its process lives. buildah and podman keep this only with --format docker.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python3", "-I", "/app/docker/healthcheck.py"]
ENTRYPOINT ["/app/docker/entrypoint"]
CMD []
