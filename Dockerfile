# The image with Headrace in it: the gateway, `headrace pull`, llama.cpp and code of your own. How to build it: docs/image.md.
ARG PYTHON=3.12.11-slim-bookworm

FROM python:${PYTHON} AS build
# kubernetes: KEDA may ask the gateway. redis: gateways share limits of keys. local: the embedded llama.cpp (150 MB more); leave it out where nothing runs on CPUs.
ARG EXTRAS=kubernetes,local,redis
WORKDIR /source
RUN python -m venv /opt/headrace
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/headrace/bin/pip install --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]" \
    && /opt/headrace/bin/pip uninstall --yes --quiet pip

FROM python:${PYTHON}
# llama.cpp's threads are OpenMP's.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 headrace && useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home headrace
COPY --from=build /opt/headrace /opt/headrace
# The root file system is read-only in pods: what is written goes below /tmp. Bytecode is there already, from the installation.
ENV PATH=/opt/headrace/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 1000:1000
EXPOSE 8000 9091
ENTRYPOINT ["headrace"]
CMD ["--help"]
