# Every target sets up what it needs by itself: python3 (>= 3.11) and a package index are all that a machine must have.

PYTHON ?= python3
# Tests that run at a time: many of them wait for real processes.
JOBS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check -q install --require-hashes
UV := $(VENV)/bin/uv
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' mirror/__init__.py)
BUILDAH ?= buildah
OUT ?= dist
COMPILE := $(UV) pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help serve test check fmt install uninstall bundle image man lock bench bench-quick bench-crowd bench-check bench-sync bench-sync-quick conformance model drills machines push-drills soak hostile tools clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

serve: $(VENV)/runtime ## Run the registry on 127.0.0.1:5000 with config/quickstart.yaml
	$(VENV)/bin/mirror serve --config config/quickstart.yaml

test: $(VENV)/dev ## Run all tests; those that lack a system tool skip and say which
	$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/dev ## Lint, formatting, types and import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

fmt: $(VENV)/dev ## Format, and mend what the linter can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/dev ## Measure ours beside nginx and distribution (6 minutes)
	$(RUN) -m bench.run

bench-quick: $(VENV)/dev ## The same in 90 seconds, rougher
	$(RUN) -m bench.run --quick

bench-check: $(VENV)/dev ## Is this checkout slower than BASE=<commit>? Both run side by side, in turns (7 minutes; QUICK=1: 2)
	$(RUN) -m bench.check --base "$(BASE)" $(if $(QUICK),--quick)

bench-crowd: $(VENV)/dev ## Do ten thousand clients that hang up hold up another one? (1 minute)
	$(RUN) -m bench.crowd

bench-sync: $(VENV)/dev ## Measure a sync over a slow link beside regsync and skopeo (6 minutes)
	.ci/tools regsync
	$(RUN) -m bench.sync

bench-sync-quick: $(VENV)/dev ## The same with a tenth of the bytes, in 2 minutes
	.ci/tools regsync
	$(RUN) -m bench.sync --quick

conformance: $(VENV)/dev ## Only the OCI conformance suite
	$(RUN) -m pytest tests/conformance

model: $(VENV)/dev ## The state machine for a long time (30 minutes)
	MODEL=5000 $(RUN) -m pytest --timeout 3600 tests/model

drills: $(VENV)/dev ## Sync, carry and load releases of full size with everything going wrong (20 minutes)
	DRILLS=1 $(RUN) -m pytest tests/offline/test_drills.py

push-drills: $(VENV)/dev ## Kill the service two hundred times while clients push (20 minutes)
	PUSH_DRILLS=200 PUSHES=200 $(RUN) -m pytest -s tests/faults/test_push_drills.py tests/faults/test_push_kill.py

soak: $(VENV)/dev ## Everything at once: clients, pushes, kills, reloads, gc, scrub, faults and attacks (SOAK=1200 seconds)
	SOAK=$(or $(SOAK),1200) $(RUN) -m pytest -s tests/soak

hostile: $(VENV)/dev ## Thousands of clients that send much and take nothing: memory stays under a gigabyte (10 minutes, as root)
	HOSTILE=4096 $(RUN) -m pytest -s tests/faults/test_hostile_memory.py

machines: $(VENV)/dev ## Install the bundle on a Debian under systemd, with everything going wrong (3 minutes, as root)
	MACHINES=1 $(RUN) -m pytest tests/install

tools: ## Build the Go programs that tests pull with, into .tools/bin
	.ci/tools

install: $(VENV)/runtime ## Install the service on this host: DESTDIR, PREFIX=/opt/mirror, STORE=/var/lib/mirror
	$(RUN) bundle/build.py --tree build/bundle --python $$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	PYTHON=$(PYTHON) DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) STORE=$(STORE) build/bundle/install.sh

uninstall: ## Take the service away again; the store and /etc/mirror stay
	DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) bundle/install.sh --uninstall

bundle: $(VENV)/runtime ## Make one tar that installs the service without a network; after `make image` with that image in it
	$(RUN) bundle/build.py --output $(OUT) $(addprefix --image ,$(or $(IMAGE),$(wildcard $(OUT)/mirror-$(VERSION).oci.tar)))

image: ## Build the container image into OUT=dist, as mirror-VERSION.oci.tar: BASE=IMAGE; WHEELS=FOLDER instead of an index
	mkdir -p $(OUT)
	$(BUILDAH) build $(BUILD_FLAGS) --timestamp $$(git log -1 --format=%ct 2>/dev/null || echo 1000000000) \
	  $(if $(BASE),--build-arg BASE=$(BASE)) \
	  $(if $(WHEELS),--volume $(abspath $(WHEELS)):/wheels:ro --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null) -t localhost/mirror:$(VERSION) .
	rm -f $(OUT)/mirror-$(VERSION).oci.tar
	$(BUILDAH) push -q localhost/mirror:$(VERSION) oci-archive:$(OUT)/mirror-$(VERSION).oci.tar:localhost/mirror:$(VERSION)

man: $(VENV)/runtime ## Make man pages and shell completion from the commands, into build/share
	$(RUN) bundle/manual.py build/share

lock: $(VENV)/dev ## Lock the newest versions that pyproject.toml allows, with hashes
	$(COMPILE) --upgrade pyproject.toml requirements/build.in -o requirements/runtime.txt
	$(COMPILE) --upgrade pyproject.toml requirements/build.in --group test --group lint -o requirements/dev.txt

clean: ## Remove what the other targets made, the quickstart's store included
	rm -rf $(VENV) .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache config/quickstart-store
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "make: $(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are older than a lock that has changed, so an update of the checkout updates the environment.
$(VENV)/runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) -r requirements/runtime.txt
	$(RUN) -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) -r requirements/dev.txt
	$(RUN) -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	@touch $(VENV)/runtime $@
