# The two commands of the README. Each installs what it misses and says what it installs.
SHELL := /bin/bash
VENV := .venv
UV := $(VENV)/bin/uv
export PYINFRA_PROGRESS ?= off

.PHONY: deploy test lint sync clean

deploy: sync  ## The whole stack on a throwaway local droplet, or on $DROPLET_HOST
	$(UV) run drill deploy

test: sync  ## Every test tier; TIERS="not droplet" leaves the drill out
	./tests/run $(if $(TIERS),-m "$(TIERS)")

lint: sync
	$(UV) run ruff check . && $(UV) run ruff format --check . && $(UV) run mypy

sync:
	@./bootstrap

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis artefacts
