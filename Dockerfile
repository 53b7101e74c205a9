# The worker with the published checkpoint inside, for GPUs on Runpod:
#   docker build --platform linux/amd64 -t hate-speech-detection .
#   docker run --rm hate-speech-detection                          scores test_input.json, exits
#   docker run --rm -p 8000:8000 -e BEARER_TOKEN=… hate-speech-detection server          HTTP
# docs/runpod.md has the next steps. scripts/check-image builds this file on a small base image.

# Any image works that has Python 3.11 or 3.12, pip, and the torch that requirements.txt names. The
# digest comes from two public repositories that pin it; no build of this file has pulled it yet.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4

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


# The lock file's entries for the packages that fetching imports. The next stage copies them as a
# file, so the download depends on these entries and not on the rest of the lock.
FROM ${BASE_IMAGE} AS fetching-pins
COPY docker/select_pins.py requirements.lock /build/
RUN python3 /build/select_pins.py /build/requirements.lock \
        anyio h11 httpcore2 httpx2 idna tqdm truststore typing-extensions \
        > /build/requirements.txt


# Downloads 1.4 GB in a layer that depends only on the fetching code. The file is a pickle; only this
# stage and the stage that converts it have it.
FROM ${BASE_IMAGE} AS fetching
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


# The base image's Python is managed by its distribution (PEP 668), and its torch is built for its
# CUDA. So all other packages go into an environment of their own that sees these two. The second
# install must find nothing to do, or it fails: it proves that the base image has the torch that
# requirements.txt names.
FROM ${BASE_IMAGE} AS packages
COPY docker/constraints.py requirements.lock requirements.txt /build/
RUN python3 /build/constraints.py > /build/base.txt \
    && python3 -m venv --system-site-packages --without-pip /opt/worker \
    && python3 -m pip --python /opt/worker/bin/python install \
        --no-cache-dir --require-hashes --no-deps -c /build/base.txt -r /build/requirements.lock \
    && python3 -m pip --python /opt/worker/bin/python install \
        --no-cache-dir --no-index -c /build/base.txt -r /build/requirements.txt


# Verifies and converts the downloaded file: download.py finds it where its own download would be.
FROM packages AS checkpoint
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
        sum=$(sha256sum checkpoints/.bertweet-large.partial/checkpoint.part | cut -d ' ' -f 1); \
        echo "warning: the checkpoint is not pinned; if you trust this file, pin it with" \
            "--build-arg CHECKPOINT_SHA256=$sum" >&2; \
    fi; \
    /opt/worker/bin/python download.py --checkpoint "$CHECKPOINT" --tokenizer "$TOKENIZER" \
        --revision "$TOKENIZER_REVISION" --dtype "$DTYPE" \
        ${CHECKPOINT_SHA256:+--sha256 "$CHECKPOINT_SHA256"}


FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.1.0
# The commit that the image is built from.
ARG REVISION=
LABEL org.opencontainers.image.title="hate-speech-detection" \
      org.opencontainers.image.description="Scores tweets: hate, abusing, neutral, spam. A Runpod serverless worker." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
ENV PATH=/opt/worker/bin:$PATH \
    MODEL_DIR=/app/checkpoints/bertweet-large \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    HOST=0.0.0.0 \
    JOBS_DB=/home/worker/jobs.sqlite3
RUN useradd --system --uid 10001 --user-group --create-home worker
WORKDIR /app
# Layers that change rarely come first: a new release of the code pushes a few hundred kilobytes.
COPY --from=packages /opt/worker /opt/worker
COPY --from=checkpoint /app/checkpoints/bertweet-large checkpoints/bertweet-large
COPY docker/entrypoint docker/healthcheck.py docker/
COPY app.py server.py test_input.json ./
COPY hatespeech/*.py hatespeech/
COPY hatespeech/text hatespeech/text
COPY hatespeech/model hatespeech/model
COPY hatespeech/engine hatespeech/engine
COPY hatespeech/formats hatespeech/formats
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
