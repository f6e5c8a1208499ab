HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= var
ARGS ?=
# What the tests use beside the Python packages; empty installs nothing.
SYSTEM_PACKAGES ?= chromium nginx pgbouncer rabbitmq-server redis-server

PYTHON_BIN := .venv/bin/python
# The shell's own settings must not decide what a check finds.
CLEAN_ENV := env -i PATH="$$PATH" HOME="$$HOME" SECRET_KEY=for-checks-only-0123456789-0123456789
COMPILE = env -u PIP_FIND_LINKS -u UV_FIND_LINKS .venv/bin/uv pip compile --quiet \
	--universal --python-version 3.12 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links $(ARGS)

# A stamp says nothing about an interpreter that has gone since.
ifneq ($(shell $(PYTHON_BIN) -ISc 'print("ok")' 2>/dev/null),ok)
$(shell rm -f .venv/.run .venv/.dev)
endif

.DEFAULT_GOAL := help
.PHONY: help run test .system check drill bench mutants lock schema configuration clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: export HOST := $(HOST)
run: export PORT := $(PORT)
run: export DATA_DIR := $(DATA_DIR)
run: .venv/.run ## Start the site (HOST, PORT, DATA_DIR)
	@exec $(PYTHON_BIN) manage.py serve

# Four at a time on two cores, as tests also wait; hash seed: all name the tests alike;
# bytecode: else each of them compiles all tests anew.
PYTEST = env -u PYTHONDONTWRITEBYTECODE PYTHONHASHSEED=0 TEST_DB=$(1) \
	$(PYTHON_BIN) -m pytest -n 4 --dist loadfile \
	--no-loadscope-reorder -m $(2) $(ARGS) || { code=$$?; [ -n "$(strip $(ARGS))" ] && [ $$code -eq 5 ]; }

test: .system ## Run the tests (ARGS: pytest's)
	@$(call PYTEST,postgres,"not browser")
	@$(call PYTEST,sqlite,"not once and not faults")

.system: .venv/.dev
	@sh deploy/system_packages.sh $(SYSTEM_PACKAGES)

check: .venv/.dev ## Check format, lint, types, migrations, API schema and manifests
	$(PYTHON_BIN) -m ruff format --check .
	$(PYTHON_BIN) -m ruff check .
	$(CLEAN_ENV) .venv/bin/lint-imports --no-cache
	$(CLEAN_ENV) $(PYTHON_BIN) -m mypy
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && trap 'exit 130' INT TERM && \
	echo "manage.py makemigrations --check" && \
	$(CLEAN_ENV) DATA_DIR="$$tmp" $(PYTHON_BIN) manage.py makemigrations --check \
		--dry-run && \
	echo "manage.py spectacular: compare with resilient_site/openapi.yaml" && \
	$(CLEAN_ENV) DATA_DIR="$$tmp" $(PYTHON_BIN) manage.py spectacular --validate \
		--fail-on-warn --file "$$tmp/openapi.yaml" && \
	if ! diff -u resilient_site/openapi.yaml "$$tmp/openapi.yaml"; then \
		echo "The API has changed: run 'make schema'" >&2; exit 1; fi && \
	if command -v redocly >/dev/null; then \
		REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		redocly lint resilient_site/openapi.yaml; \
	else echo "redocly is not installed: the schema is not linted"; fi && \
	$(PYTHON_BIN) deploy/write_configuration.py "$$tmp/configuration.md" && \
	if ! diff -u deploy/CONFIGURATION.md "$$tmp/configuration.md"; then \
		echo ".env.example has changed: run 'make configuration'" >&2; exit 1; fi
	$(PYTHON_BIN) deploy/check_kubernetes.py

drill: .venv/.dev ## Break what the site stands on and see what happens (ARGS: drill's)
	@sh deploy/system_packages.sh nginx rabbitmq-server redis-server
	@exec env DATA_DIR=$(DATA_DIR) $(PYTHON_BIN) -m tests.drill $(ARGS)

bench: .venv/.dev ## Measure the site beside its peers (ARGS: see --help)
	@sh deploy/system_packages.sh wrk nginx redis-server
	@exec $(PYTHON_BIN) -m tests.load.bench $(ARGS)

mutants: .system ## Change the code in small ways and count what tests catch (ARGS: pytest's)
	@$(PYTHON_BIN) -m pytest -p tests.mutants -p no:randomly -q --timeout 0 \
		-m "not faults and not browser" $(ARGS)

lock: .venv/.dev ## Write the lock files from pyproject.toml (ARGS=--upgrade: newest)
	$(COMPILE) --output-file requirements.txt pyproject.toml
	echo uv | $(COMPILE) --constraint requirements.txt --group dev --all-extras \
		--prerelease if-necessary-or-explicit \
		--output-file requirements-dev.txt pyproject.toml -
	$(COMPILE) --constraint requirements-dev.txt --extra otel \
		--prerelease if-necessary-or-explicit \
		--output-file requirements-otel.txt pyproject.toml
	$(COMPILE) --constraint requirements-dev.txt --extra s3 \
		--output-file requirements-s3.txt pyproject.toml

schema: .venv/.dev ## Write resilient_site/openapi.yaml from the code
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && trap 'exit 130' INT TERM && \
	$(CLEAN_ENV) DATA_DIR="$$tmp" $(PYTHON_BIN) manage.py spectacular --validate \
		--fail-on-warn --file resilient_site/openapi.yaml

configuration: .venv/.dev ## Write deploy/CONFIGURATION.md from .env.example
	$(PYTHON_BIN) deploy/write_configuration.py

clean: ## Remove .venv and the tools' caches; the data stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: requirements.txt deploy/bootstrap.sh
	@sh deploy/bootstrap.sh requirements.txt
	@touch $@

# The development lock holds all of the other one, in the same versions.
.venv/.dev: requirements-dev.txt requirements.txt deploy/bootstrap.sh
	@sh deploy/bootstrap.sh requirements-dev.txt
	@touch .venv/.run $@
