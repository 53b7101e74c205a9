# The worker with the published checkpoint inside, for GPUs on Runpod:
#   docker build --platform linux/amd64 -t hate-speech-detection .
#   docker run --rm hate-speech-detection                          scores test_input.json, exits
#   docker run --rm -p 8000:8000 -e BEARER_TOKEN=… hate-speech-detection server          HTTP
# docs/runpod.md goes on from there; scripts/check-image builds this file for real, on a small base.

# Any image with Python 3.11 or 3.12, pip and the torch that requirements.txt names will do. This
# digest was read in two public repositories that pin it; the image was not pulled here.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4

# The file is recorded in this image's history: no user or password in the URL.
ARG CHECKPOINT=https://snet-open-models.s3.amazonaws.com/hate-speech-detection/model_7
# Empty: the file is taken as it arrives, and its SHA-256 recorded in config.json.
ARG CHECKPOINT_SHA256=
ARG TOKENIZER=vinai/bertweet-large
# A branch moves: give a commit for builds that must repeat. config.json records what it was.
ARG TOKENIZER_REVISION=main
ARG HF_ENDPOINT=https://huggingface.co
# Of the weights on disk. float32 doubles them; choose it for CPUs.
ARG DTYPE=float16


# The lock file's lines for what fetching imports. Copied on as a file, so that the download below
# depends on these lines and not on the rest of the lock.
FROM ${BASE_IMAGE} AS fetching-pins
COPY docker/select_pins.py requirements.lock /build/
RUN python3 /build/select_pins.py /build/requirements.lock \
        anyio h11 httpcore2 httpx2 idna tqdm truststore typing-extensions \
        > /build/requirements.txt


# 1.4 GB, in a layer that depends on the fetching code alone. The file is a pickle: it stays in this
# stage and the next.
FROM ${BASE_IMAGE} AS fetching
COPY --from=fetching-pins /build/requirements.txt /build/
RUN python3 -m venv --without-pip /opt/fetching \
    && python3 -m pip --python /opt/fetching/bin/python install \
        --no-cache-dir --require-hashes --no-deps -r /build/requirements.txt
COPY docker/fetch.py /build/
# Without the package's own __init__.py, which would need the rest of it.
COPY hatespeech/bars.py hatespeech/locks.py hatespeech/retry.py hatespeech/urls.py \
     /build/hatespeech/
COPY hatespeech/fetching/__init__.py hatespeech/fetching/http.py \
     hatespeech/fetching/workplace.py /build/hatespeech/fetching/
ARG CHECKPOINT
RUN /opt/fetching/bin/python /build/fetch.py "$CHECKPOINT" /fetched


# The base's Python is managed by its distribution (PEP 668), and its torch is the one built for its
# CUDA: everything else goes beside them, into an environment that sees them. The second install
# finds nothing to do, or fails: it proves that the base's torch is the one requirements.txt names.
FROM ${BASE_IMAGE} AS packages
COPY docker/constraints.py requirements.lock requirements.txt /build/
RUN python3 /build/constraints.py > /build/base.txt \
    && python3 -m venv --system-site-packages --without-pip /opt/worker \
    && python3 -m pip --python /opt/worker/bin/python install \
        --no-cache-dir --require-hashes --no-deps -c /build/base.txt -r /build/requirements.lock \
    && python3 -m pip --python /opt/worker/bin/python install \
        --no-cache-dir --no-index -c /build/base.txt -r /build/requirements.txt


# What has arrived, verified and converted: download.py finds it where it would have left it itself.
FROM packages AS checkpoint
WORKDIR /app
COPY download.py ./
# The ground floor and the rooms that convert: none of them knows HTTP.
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
RUN /opt/worker/bin/python download.py --checkpoint "$CHECKPOINT" --tokenizer "$TOKENIZER" \
        --revision "$TOKENIZER_REVISION" --dtype "$DTYPE" \
        ${CHECKPOINT_SHA256:+--sha256 "$CHECKPOINT_SHA256"}


FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.1.0
# The commit it is built from.
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
# Those that change least come first: a new release of the code is a few hundred kilobytes to push.
COPY --from=packages /opt/worker /opt/worker
COPY --from=checkpoint /app/checkpoints/bertweet-large checkpoints/bertweet-large
COPY docker/entrypoint docker/healthcheck.py docker/
COPY app.py server.py test_input.json ./
COPY hatespeech/*.py hatespeech/
COPY hatespeech/text hatespeech/text
COPY hatespeech/model hatespeech/model
COPY hatespeech/engine hatespeech/engine
COPY hatespeech/worker hatespeech/worker
COPY hatespeech/serving hatespeech/serving
# The worker's user cannot write here: without this every start would compile.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash app.py server.py hatespeech
USER 10001:10001
# HTTP, once started as `docker run IMAGE server`.
EXPOSE 8000
# Generous: a start imports torch and reads the weights. A queue worker passes by being alive.
# buildah and podman keep this line with --format docker only.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python3", "-I", "/app/docker/healthcheck.py"]
ENTRYPOINT ["/app/docker/entrypoint"]
CMD []
