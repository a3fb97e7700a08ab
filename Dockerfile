# The server (target `server`, the default) and the load test (target `load`), each installed by the Makefile target that
# installs it on a laptop, so that `make run` and `make test` are what tests these steps.
FROM python:3.11-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 foursight \
    && install --directory --owner foursight --group foursight /srv/foursight /srv/torch /srv/models
WORKDIR /srv/foursight
COPY --chown=foursight:foursight . .
USER 1000
# What pip downloads stays in the builder's cache: a change of a source file installs again, and downloads nothing.
ENV PIP_CACHE_DIR=/var/cache/pip

FROM base AS load
RUN --mount=type=cache,target=/var/cache/pip,uid=1000 make .venv/installed-load
ENTRYPOINT [".venv/bin/locust", "--locustfile", "loadtests/locustfile.py", "--headless"]

FROM base AS server
# pip reads this one by itself. PyTorch's own index of CPU builds, given here, makes the image a tenth of the size: without
# it pip takes the CUDA build.
ARG PIP_EXTRA_INDEX_URL=
RUN --mount=type=cache,target=/var/cache/pip,uid=1000 make .venv/installed-server
# The standard profile's weights go here: a folder to mount a volume on.
ENV TORCH_HOME=/srv/torch
# Fine-tuned models: a folder to mount this machine's on, or a volume.
ENV FOURSIGHT_MODELS_DIR=/srv/models
# Inside, every interface: what reaches the container is decided by what is published.
ENV FOURSIGHT_HOST=0.0.0.0
EXPOSE 8000
CMD [".venv/bin/foursight", "serve"]
