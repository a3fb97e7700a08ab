# The two commands: `make run` and `make test`. Both make the same virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --editable

.PHONY: run test lint load peers chromium

run: $(VENV)/installed-server
	@$(BIN)/foursight serve

test: $(VENV)/installed-dev chromium
	$(BIN)/python -m pytest

# The page is tested in a real browser: it is installed where that can be done, else it is said what to install.
chromium:
	@command -v chromium >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing Chromium ..." && apt-get -qq update \
		&& apt-get -qq install --yes --no-install-recommends chromium fonts-liberation >/dev/null; \
	} || echo "The tests of the page need Chromium, and will fail without: apt-get install chromium"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two minutes of load against the server that runs on this machine, and a report with plots in load-report/.
load: $(VENV)/installed-load
	mkdir -p load-report
	$(BIN)/locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless --only-summary \
		--csv load-report/run --csv-full-history --html load-report/locust.html --stop-timeout 60 --exit-code-on-error 0
	$(BIN)/python loadtests/report.py load-report/run --out load-report/report.png

# Other servers beside ours, what each part costs, and docs/performance.md from it: some three hours.
peers: $(VENV)/installed-peers
	$(BIN)/python -m loadtests.peers
	$(BIN)/python -m loadtests.performance steps sizes objects connections batches idle open_loop large page

$(VENV)/installed-%: pyproject.toml
	@test -x $(BIN)/python || (echo "Making a virtual environment in $(VENV) ..." && $(PYTHON) -m venv $(VENV))
	@echo "Installing Foursight with what its extra '$*' needs (the first time: several minutes) ..."
	@$(INSTALL) '.[$*]'
	@touch $@
