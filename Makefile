# Needs Python 3.13 and make; every target installs what it needs first, into .venv, .venv-sam, .venv-checkov and .venv-ministack.
# requirements/ says what, with hashes.
# Another interpreter: make PYTHON=/path/to/python3.13 …

PYTHON ?= $(shell for p in python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
VENV_SAM := .venv-sam
VENV_CHECKOV := .venv-checkov
VENV_MINISTACK := .venv-ministack
VENV_MUTATE := .venv-mutate
VENV_LOCK := .venv-lock
PY := $(VENV)/bin/python
# `sam build` looks for python3.13 on the PATH: the venv has one.
SAM := PATH="$(CURDIR)/$(VENV_SAM)/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam

# With the image here, SAM needs no registry.
LAMBDA_IMAGE := public.ecr.aws/lambda/python:3.13-x86_64

MERCHANT ?= m1
FUNCTION ?= StatusCheckFunction
EVENT ?= events/status_check/paid.json
ENVIRONMENT ?= staging

# What `make test` leaves to `make verify`: minutes each, on all cores. tests/docker needs a Docker engine.
SLOW_TESTS := tests/exhaustive tests/wire tests/build tests/aws tests/e2e

# What `make mutate` changes: the money path and the signing layer.
MUTATED = $(filter-out %/__init__.py, $(wildcard functions/gateway/core/*.py functions/gateway/refunds/*.py \
	layers/indodana/indodana/*.py))

# In this order: a file may hold others to its versions, by `-c`.
LOCKED := layers/indodana/requirements requirements/run requirements/dev requirements/sam requirements/checkov \
	requirements/ministack requirements/mutate requirements/lock requirements/bench-floor requirements/bench-usual

.DEFAULT_GOAL := help
.PHONY: help run demo chaos logs token aws simulator check test verify soak simulate wire mutate test-docker bench scale \
	lint format validate secrets audit audit-strict lock licences build deploy rollback prune-versions invoke clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start the local stack; PORT, HOST, UPSTREAM_URL, AWS_ENDPOINT_URL and PARAMETERS change it
	@$(PY) -m devstack

demo: $(VENV)/.run ## show a refund's life in one minute: partial, repeated, queued, unknown, resolved
	@$(PY) -m devstack.demo

chaos: $(VENV)/.run ## kill the stack under load, then compare the ledger with Indodana's books; SECONDS=60 ORDERS=200 SEED=n
	@$(PY) -m devstack.chaos $(if $(SECONDS),--seconds "$(SECONDS)") $(if $(ORDERS),--orders "$(ORDERS)") \
		$(if $(SEED),--seed "$(SEED)")

logs: $(VENV)/.run ## show what the local stack on PORT logged; ORDER=…, REFUND=…, CORRELATION=… filter it
	@$(PY) -m devstack.logs $(if $(ORDER),--order "$(ORDER)") $(if $(REFUND),--refund "$(REFUND)") \
		$(if $(CORRELATION),--correlation "$(CORRELATION)")

token: $(VENV)/.run ## print a token for the local stack on PORT; SCOPES="refunds:read" (default: all), MERCHANT=m1
	@$(PY) -m devstack.tokens $(if $(SCOPES),--scopes "$(SCOPES)") --merchant "$(MERCHANT)"

aws: $(VENV)/.run ## start the AWS emulator alone; its data outlives the stacks that use it
	@$(PY) -m devstack.aws

simulator: $(VENV)/.run ## start the Indodana simulator alone
	@$(PY) -m testkit.indodana

check: lint ## in seconds: lint, types and unit tests
	@$(PY) -m pytest -q -n auto tests/unit

test: lint ## before a commit, in minutes: lint, types and all tests but the slow ones
	$(PY) -m pytest -q -n auto --dist worksteal $(SLOW_TESTS:%=--ignore %) --ignore tests/docker

# The audit stands last, where it is seen if nothing could be audited.
verify: validate secrets build $(VENV_MINISTACK)/.installed ## CI and releases, in half an hour: template, secrets, build, slow tests (schedules, seeds, mutants, chaos), audit
	$(PY) -m pytest -q $(SLOW_TESTS)
	@$(MAKE) --no-print-directory audit

soak: ## before a release, by hand, hours: 10,000 seeds of simulate, 5,000 of wire, half an hour of chaos
	@$(MAKE) --no-print-directory simulate SEEDS=10000
	@$(MAKE) --no-print-directory wire SEEDS=5000
	@$(MAKE) --no-print-directory chaos SECONDS=1800 ORDERS=2000

simulate: $(VENV)/.installed ## random fault simulation: SEEDS=10000 runs so many seeds; SEED=17 replays one, step by step
	@PYTHONPATH=functions:layers/indodana:. $(PY) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

wire: $(VENV)/.installed ## simulate network faults between gateway and Indodana: SEEDS=5000, or SEED=17 call by call
	@PYTHONPATH=functions:layers/indodana:. $(PY) -m tests.wire $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),300))

# Not in CI: it takes more than an hour. Interrupted, it resumes where it was; .mutation/ holds what is known.
mutate: $(VENV)/.installed $(VENV_MUTATE)/.installed ## mutate the money path and run the tests against each mutant; MODULES="ledger masking", THOROUGH=1
	@mkdir -p .mutation
	@$(VENV_MUTATE)/bin/python -m tests.mutation.make $(MUTATED) > .mutation/mutants.jsonl
	@nice $(PY) -m tests.mutation.run $(MODULES) $(if $(THOROUGH),--thorough)

test-docker: $(VENV)/.installed $(VENV_SAM)/.installed ## run the built functions in the Lambda runtime; needs a Docker engine
	$(PY) -m pytest -q tests/docker

bench: $(VENV)/.installed .bench/.installed build ## measure the built functions and compare them with floors and peers; RELEASE=1 keeps the figures
	@$(PY) -m bench $(if $(RELEASE),--release)

scale: $(VENV)/.installed ## measure how calls, units and time grow with refunds and batches, and what a slow Indodana costs; six minutes
	@PYTHONPATH=functions:layers/indodana:. $(PY) -m bench.scale
	@$(PY) -m bench.slow_upstream

lint: $(VENV)/.installed ## style and types
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/mypy --strict --no-error-summary functions layers devstack deploy checks bench testkit tests

format: $(VENV)/.installed ## format, and fix what ruff can fix
	$(VENV)/bin/ruff check --quiet --fix
	$(VENV)/bin/ruff format --quiet

validate: $(VENV_SAM)/.installed $(VENV_CHECKOV)/.installed ## check template.yaml
	@$(SAM) validate --lint
	@found=$$($(VENV_CHECKOV)/bin/checkov --file template.yaml --framework cloudformation --skip-download --quiet --compact 2>&1) \
		|| { echo "$$found"; exit 1; }

secrets: $(VENV)/.installed $(VENV_CHECKOV)/.installed ## scan the files that git tracks for secrets
	@$(PY) -m checks.secret_scan

audit: $(VENV)/.installed $(VENV_CHECKOV)/.installed ## audit the pinned packages for known vulnerabilities with pip-audit and OSV; needs a network
	@$(PY) -m checks.vulnerabilities

audit-strict: $(VENV)/.installed $(VENV_CHECKOV)/.installed ## the same, and fail where anything was not audited; before a deployment
	@$(PY) -m checks.vulnerabilities --strict

lock: $(VENV_LOCK)/.installed ## write the requirements with hashes from the .in files; UPGRADE="urllib3 idna" takes newer versions of these
	@for name in $(LOCKED); do $(VENV_LOCK)/bin/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes \
		--only-binary :all: --custom-compile-command "make lock" $(UPGRADE:%=--upgrade-package %) "$$name.in" -o "$$name.txt" || exit 1; done

licences: $(VENV)/.installed $(VENV_SAM)/.installed $(VENV_CHECKOV)/.installed $(VENV_MINISTACK)/.installed ## write docs/licences.md from the pins and the installed packages
	@$(PY) -m checks.licences

build: $(VENV_SAM)/.installed ## build what is deployed, into .aws-sam/build
	@$(SAM) build

# What is missing is said in a second, before anything is installed, built or asked.
deploy: ## look, audit, build, and deploy ENVIRONMENT=staging or production; PARAMETERS="A=b" over samconfig.toml's, CONFIRM=no
	@test -n "$(PYTHON)" || { echo "Python 3.13 is needed and was not found: install it, or make PYTHON=/path/to/python3.13" >&2; exit 1; }
	@"$(PYTHON)" -m deploy.target "$(ENVIRONMENT)" "$(PARAMETERS)"
	@$(MAKE) --no-print-directory $(VENV)/.run
	@$(PY) -m deploy.preflight "$(ENVIRONMENT)" "$(PARAMETERS)" "$(CONFIRM)"
	@$(MAKE) --no-print-directory audit-strict build
	@PATH="$(CURDIR)/$(VENV_SAM)/bin:$$PATH" SAM_CLI_TELEMETRY=0 $(PY) -m deploy "$(ENVIRONMENT)" "$(PARAMETERS)" "$(CONFIRM)"

rollback: $(VENV)/.run ## go back to the deployment before in ENVIRONMENT, all functions at once; CONFIRM=no
	@$(PY) -m deploy.rollback "$(ENVIRONMENT)" "$(CONFIRM)"

prune-versions: $(VENV)/.run ## delete old versions of the functions in ENVIRONMENT, but the newest KEEP=3 and those in use; CONFIRM=no
	@$(PY) -m deploy.versions "$(ENVIRONMENT)" "$(or $(KEEP),3)" "$(CONFIRM)"

invoke: $(VENV)/.run $(VENV_SAM)/.installed ## run FUNCTION with EVENT in the Lambda runtime (Docker), against HOST=0.0.0.0 make run
	@$(PY) -m devstack.sam_environment
	@$(SAM) build --config-env local > .local/sam-build.log 2>&1 || { cat .local/sam-build.log; exit 1; }
	@$(SAM) local invoke "$(FUNCTION)" --config-env local --event "$(EVENT)" \
		$$(docker image inspect $(LAMBDA_IMAGE) >/dev/null 2>&1 && echo --skip-pull-image)

clean: ## remove all that was installed, built or kept
	rm -rf $(VENV) $(VENV_SAM) $(VENV_CHECKOV) $(VENV_MINISTACK) $(VENV_MUTATE) $(VENV_LOCK) .mutation .bench .aws-sam .local .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a venv is brought up to date when a requirements file has changed since. .venv has two stages, so that
# `make run` needs only the first.
$(VENV)/.run: requirements/run.txt
$(VENV)/.installed: requirements/dev.txt $(VENV)/.run
$(VENV)/.run: WHAT := the local stack (about 20 s, 140 MB, once)
$(VENV)/.installed: WHAT := the tests and tools (about 25 s, 170 MB more, once)
$(VENV_SAM)/.installed: requirements/sam.txt
$(VENV_CHECKOV)/.installed: requirements/checkov.txt
$(VENV_MINISTACK)/.installed: requirements/ministack.txt
$(VENV_MUTATE)/.installed: requirements/mutate.txt
$(VENV_LOCK)/.installed: requirements/lock.txt
$(VENV_SAM)/.installed $(VENV_CHECKOV)/.installed $(VENV_MINISTACK)/.installed $(VENV_MUTATE)/.installed $(VENV_LOCK)/.installed: WHAT = $< (once)
$(VENV)/.run $(VENV)/.installed $(VENV_SAM)/.installed $(VENV_CHECKOV)/.installed $(VENV_MINISTACK)/.installed $(VENV_MUTATE)/.installed $(VENV_LOCK)/.installed:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null \
		|| { echo "Python 3.13 is needed and was not found$(if $(PYTHON), at '$(PYTHON)'): install it, or make PYTHON=/path/to/python3.13" >&2; exit 1; }
	@"$(PYTHON)" devstack/install.py "$(@D)" "$<" "$(WHAT)"
	@touch "$@"

# What the bench compares with, each set in a folder as pip fills it.
.bench/.installed: requirements/bench-floor.txt requirements/bench-usual.txt | $(VENV)/.installed
	@echo "Installing what the bench compares with into $(@D) (once) …" >&2
	@rm -rf "$(@D)"
	@for set in floor usual; do $(PY) -m pip install -qq --disable-pip-version-check --require-hashes --only-binary :all: \
		--target "$(@D)/$$set" -r "requirements/bench-$$set.txt" || exit 1; done
	@touch "$@"
