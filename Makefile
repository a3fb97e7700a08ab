# `make` lists the targets. The first one to run creates a virtual environment in .venv.
#
# TORCH=cpu or TORCH=cuda chooses PyTorch's build, TORCH_INDEX the index of the CPU builds: see tools/install_torch.py.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export TORCH TORCH_INDEX

.PHONY: help run test lint load peers chromium prometheus

help:
	@echo "make run     start the server on http://127.0.0.1:8000"
	@echo "make test    run the tests"
	@echo "make lint    check style and types"
	@echo "make load    put two minutes of load on the running server, with a report in load-report/"
	@echo "make peers   measure other servers beside ours, and write docs/measurements/performance.md: three hours"

run: $(VENV)/installed-server
	@$(BIN)/foursight serve

test: $(VENV)/installed-dev chromium prometheus
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

# The page is tested in a real browser. It is installed without asking only for root on Debian.
chromium:
	@command -v chromium >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing Chromium ..." && apt-get -qq update \
		&& apt-get -qq install --yes --no-install-recommends chromium fonts-liberation >/dev/null; \
	} || echo "The tests of the page need Chromium and will fail without it: apt-get install chromium"

# The alerts and the dashboard are tested with a real Prometheus.
prometheus:
	@command -v promtool >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing Prometheus ..." && apt-get -qq update \
		&& apt-get -qq install --yes --no-install-recommends prometheus >/dev/null; \
	} || echo "The tests of the alerts need Prometheus and will fail without it: apt-get install prometheus"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

load: $(VENV)/installed-load
	mkdir -p load-report
	$(BIN)/locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless --only-summary \
		--csv load-report/run --csv-full-history --html load-report/locust.html --stop-timeout 60 --exit-code-on-error 0
	$(BIN)/python loadtests/report.py load-report/run --out load-report/report.png

peers: $(VENV)/installed-peers
	$(BIN)/python -m loadtests.peers
	$(BIN)/python -m loadtests.performance steps sizes objects connections batches idle open_loop large page

$(VENV)/installed-server $(VENV)/installed-dev $(VENV)/installed-peers: $(VENV)/installed-torch

$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing Foursight with its extra '$*' (the first time: several minutes) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

$(VENV)/installed-torch: | $(BIN)/python
	@$(BIN)/python tools/install_torch.py
	@touch $@

$(BIN)/python:
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
