# syntax=docker/dockerfile:1
# An edge, in two stages: wheels are built with a compiler, and run without one.
#   docker build -t edge .
#   docker run --rm edge --version
# The Python that the tests run on; any from 3.11 on serves.
ARG PYTHON=3.11-slim-trixie

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY edge ./edge
# What the image can do beside the core, e.g. audio,geo
ARG EXTRAS=audio
# Of PyAV only its libopus is used (edge/audio/opus_library.py), of 100 MB. The native engines are
# optional for pip; without them the image would be a slow one, so its build fails.
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]" \
    && python -m venv /opt/edge \
    && /opt/edge/bin/pip install --no-cache-dir --no-index --find-links /wheels "edge[${EXTRAS}]" \
    && find /opt/edge/lib/python*/site-packages/av* -type f \
        ! -path "*.dist-info/*" ! -name "libopus*" -delete \
    && /opt/edge/bin/pip uninstall --yes setuptools pip \
    && /opt/edge/bin/python -c "import edge.forwarder._native, edge.offload._native" \
    && /opt/edge/bin/python -c "from edge.audio.opus_library import version; print(version())"

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="edge" \
      org.opencontainers.image.description="A self-hosted media edge for voice AI" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/edge /opt/edge
ENV PATH=/opt/edge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes sees that it is not root. Nothing is written: the root may be read-only.
USER 10001:10001
WORKDIR /
# 3478 media; 8080 offers, health and metrics. Both bind to what the configuration says.
EXPOSE 3478/udp 8080/tcp
STOPSIGNAL SIGTERM
# No health check of Docker's: orchestrators ask /healthz and /readyz.
HEALTHCHECK NONE
ENTRYPOINT ["edge"]
CMD ["--help"]
