# The server (target `server`, the default) and the load test (target `load`). Both are installed by the Makefile, as on a
# laptop: `make run` and `make test` test these steps.
FROM python:3.11-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 foursight \
    && install --directory --owner foursight --group foursight /srv/foursight /srv/torch /srv/models /srv/keys
WORKDIR /srv/foursight
COPY --chown=foursight:foursight . .
USER 1000
# pip's downloads stay in the builder's cache, so a changed source file causes no new download.
ENV PIP_CACHE_DIR=/var/cache/pip

FROM base AS load
RUN --mount=type=cache,target=/var/cache/pip,uid=1000 make .venv/installed-load
ENTRYPOINT [".venv/bin/locust", "--locustfile", "loadtests/locustfile.py", "--headless"]

FROM base AS server
# The build sees no GPU, so `auto` selects PyTorch's CPU build (1.7 GB; 6.4 GB with CUDA). An image for a GPU needs
# `cuda`. tools/install_torch.py reads both.
ARG TORCH=auto
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/var/cache/pip,uid=1000 make .venv/installed-server .venv/installed-otel
# The standard profile's weights: mount a volume here.
ENV TORCH_HOME=/srv/torch
# Fine-tuned models: mount a folder of the host here, or a volume.
ENV FOURSIGHT_MODELS_DIR=/srv/models
ENV FOURSIGHT_KEYS_FILE=/srv/keys/keys.json
# All interfaces of the container: the published ports decide what can reach them.
ENV FOURSIGHT_HOST=0.0.0.0
EXPOSE 8000
CMD [".venv/bin/foursight", "serve"]
