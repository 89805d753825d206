# sse-keepalive-proxy as a container. Build and try it:
#
#     docker build -t sse-keepalive-proxy .
#     docker run --read-only -e SSE_KEEPALIVE_PROXY_UPSTREAM=http://notify-server:6687 \
#         -p 8080:8080 sse-keepalive-proxy
#
# Mount a configuration at /etc/sse-keepalive-proxy/config.yaml for more. PYTHON may be any image with
# Python 3.11 or later, pip for the first stage, and no more than that. COMPILER: what that stage needs to compile the
# package with (where Python is Debian's own, python3-dev too); with nothing the package is interpreted.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ARG COMPILER="gcc libc6-dev"
WORKDIR /src
RUN if [ -n "${COMPILER}" ]; then apt-get update -q && apt-get install -yq --no-install-recommends ${COMPILER}; fi
# The tools in a place of their own, so that the application's holds nothing but the application.
COPY deploy/docker/build.lock deploy/docker/runtime.lock ./
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r build.lock \
    && python3 -m venv --without-pip /opt/app \
    && /opt/build/bin/pip --python /opt/app/bin/python3 install --no-cache-dir --require-hashes \
       --only-binary :all: -r runtime.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sse_keepalive_proxy sse_keepalive_proxy
RUN SSE_PROXY_COMPILE=${COMPILER:+1} /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
    && /opt/build/bin/pip --python /opt/app/bin/python3 install --no-cache-dir --no-deps --no-index /wheel/*.whl

FROM ${PYTHON}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="sse-keepalive-proxy" \
      org.opencontainers.image.description="Server-sent events that never go silent: a sidecar for any SSE server" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/app /opt/app
COPY deploy/docker/config.yaml /etc/sse-keepalive-proxy/config.yaml
# The admin listener is to be reached by Prometheus and probes. Set the variable to nothing
# (-e SSE_KEEPALIVE_PROXY_ADMIN_LISTEN=) and the configuration decides.
ENV SSE_KEEPALIVE_PROXY_CONFIG=/etc/sse-keepalive-proxy/config.yaml \
    SSE_KEEPALIVE_PROXY_ADMIN_LISTEN=0.0.0.0:9090 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/app/bin:$PATH
USER 65532:65532
EXPOSE 8080 9090
# A drain takes up to drain.timeout (25s): give `docker stop -t 30`, or `stop_grace_period: 30s`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["sse-keepalive-proxy", "healthcheck"]
ENTRYPOINT ["sse-keepalive-proxy"]
CMD ["run"]
