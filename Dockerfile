# Targets: `cpu`, the default, and `gpu` (--target gpu; --build-arg CUDA=12 for hosts whose NVIDIA driver is older than 580).
# Guide: docs/guides/deploy/image.md. Checked by `make image-test`.

ARG PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

# --- Build stages: not part of the final image --------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 \
    # Layer timestamps may be rewritten; bytecode validated by timestamp would be recompiled at every start.
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=0
COPY requirements/tools.txt /build/requirements/
RUN python3 -m venv /tools && /tools/bin/python -m pip install --no-cache-dir --require-hashes -r /build/requirements/tools.txt
COPY deploy/image/layers /build/

FROM tools AS app
WORKDIR /build
COPY pyproject.toml README.md LICENSE /build/
COPY scripts/swagger_ui.py /build/scripts/
COPY src /build/src
RUN /tools/bin/python -m hatchling build -t wheel -d /build/dist \
    && /tools/bin/uv venv --quiet --python python3 /venv \
    && /tools/bin/uv pip install --quiet --python /venv/bin/python --no-deps --no-index /build/dist/*.whl \
    && sh /build/layers app

FROM tools AS cpu-packages
COPY requirements/cpu.txt /build/requirements/
RUN --mount=type=cache,target=/root/.cache/uv /tools/bin/uv venv --quiet --python python3 /venv \
    && /tools/bin/uv pip sync --quiet --python /venv/bin/python --require-hashes /build/requirements/cpu.txt \
    && sh /build/layers packages

FROM tools AS gpu-packages
ARG CUDA=13
COPY requirements/gpu-cuda${CUDA}.txt /build/requirements/gpu.txt
# The import check fails if the CPU package of ONNX Runtime gets into the GPU image; it needs no GPU.
RUN --mount=type=cache,target=/root/.cache/uv /tools/bin/uv venv --quiet --python python3 /venv \
    && /tools/bin/uv pip sync --quiet --python /venv/bin/python --require-hashes /build/requirements/gpu.txt \
    && /venv/bin/python -B -c 'import onnxruntime as o; assert "CUDAExecutionProvider" in o.get_available_providers()' \
    && sh /build/layers packages

# --- Shared by both images ----------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
# /root is 0700 in Debian; 0711 lets uid 999 reach a volume at /root/.cache/osam without listing /root.
RUN echo 'osamd:x:999:' >> /etc/group \
    && echo 'osamd:x:999:999::/root:/usr/sbin/nologin' >> /etc/passwd \
    && mkdir -p /root/.cache/osam \
    && chmod 711 /root \
    && chown 999:999 /root/.cache/osam
ENV PATH=/venv/bin:$PATH HOME=/root OSAMD_CACHE=/root/.cache/osam PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    # For the command below: the options `osamd serve` passes to uvicorn. Hosts wait 10 s (Docker) to 30 s or more after SIGTERM.
    UVICORN_HTTP=osamd.server.guard.connections:PatientConnection UVICORN_WS=none UVICORN_ACCESS_LOG=false \
    UVICORN_SERVER_HEADER=false UVICORN_PROXY_HEADERS=false UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=25
WORKDIR /app
EXPOSE 11368
STOPSIGNAL SIGTERM
# Only liveness, since a model may still be loading. Not urllib, which would use a proxy set in the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["/venv/bin/python", "-I", "/app/healthcheck.py"]
ENTRYPOINT ["/app/entrypoint"]
CMD ["/venv/bin/uvicorn", "main:app", "--host", "0.0.0.0", "--port", "11368"]
LABEL org.opencontainers.image.title="osamd" \
      org.opencontainers.image.description="Clicks, boxes and words into masks over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"

# --- Final images: largest and most stable layers first -----------------------------------------------------------------
FROM base AS gpu
COPY --from=gpu-packages /layers/cuda/ /
COPY --from=gpu-packages /layers/onnxruntime/ /
COPY --from=gpu-packages /layers/packages/ /
COPY --from=app /layers/app/ /
COPY main.py deploy/image/healthcheck.py /app/
COPY --chmod=755 deploy/image/entrypoint /app/
# The first two are read by the NVIDIA container toolkit; some hosts mount the driver into the third.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    # Never fall back to the CPU silently on a machine billed for its GPU.
    OSAMD_DEVICE=cuda
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.revision=${REVISION}

FROM base AS cpu
COPY --from=cpu-packages /layers/onnxruntime/ /
COPY --from=cpu-packages /layers/packages/ /
COPY --from=app /layers/app/ /
COPY main.py deploy/image/healthcheck.py /app/
COPY --chmod=755 deploy/image/entrypoint /app/
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.revision=${REVISION}
