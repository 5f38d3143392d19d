# The server, with the shipped versions: docker build -t cifar-lit . && docker run -p 7860:7860 cifar-lit
# To keep versions outside: docker run -p 7860:7860 -v "$PWD/checkpoints:/registry" -e CIFAR_LIT_REGISTRY=/registry cifar-lit
# One that trains too: docker build --target train -t cifar-lit-train . && docker run -v "$PWD:/data" cifar-lit-train fit ...

FROM python:3.11-slim AS build
WORKDIR /app
RUN python -m venv /venv
COPY requirements/serve.lock requirements/serve.lock
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/serve.lock
COPY pyproject.toml README.md LICENSE ./
COPY cifar_lit cifar_lit
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build AS build-train
COPY requirements/train.lock requirements/train.lock
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/train.lock

FROM python:3.11-slim AS base
RUN useradd --create-home --uid 10001 visitor
WORKDIR /app
COPY --chown=visitor configs configs
COPY --chown=visitor checkpoints checkpoints
USER visitor
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1

FROM base AS train
COPY --from=build-train /venv /venv
ENTRYPOINT ["cifar-lit"]
CMD ["--help"]

FROM base AS serve
COPY --from=build /venv /venv
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/ready', timeout=2)"]
# Any host name: who runs it behind a proxy names its own with --allowed-hosts.
CMD ["cifar-lit", "serve", "--host", "0.0.0.0", "--port", "7860"]
