# A worker whose engine is SGLang. The vendor's image brings CUDA, the compiler for its kernels, and SGLang itself, at
# the one version that the host accepts; the host's own packages stay in an environment of their own beside it. Of those
# only the KV planes plugin (services/kvplanes) is put on SGLang's path, by the worker.
FROM lmsysorg/sglang:v0.5.17
USER root
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv /opt/bunkhouse \
 && /opt/bunkhouse/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY scheduler scheduler
COPY services services
RUN /opt/bunkhouse/bin/pip install --no-cache-dir --no-deps --no-build-isolation --no-index . \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/bunkhouse bunkhouse \
 && install -d -o bunkhouse -g bunkhouse /var/lib/bunkhouse /weights
ENV PATH=/opt/bunkhouse/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/bunkhouse
ENTRYPOINT []
CMD ["bunkhouse", "version"]
