# The two commands: `make run` and `make test`. Both make the same virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = clients models serving wire
# Links to each file are made at installation, so that a new file asks for a new one.
FILES := $(shell find $(PACKAGES) -name '*.py' | sort)

.PHONY: run test lint install

run: $(VENV)/server
	@$(BIN)/foursight serve

test: $(VENV)/dev
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/server
