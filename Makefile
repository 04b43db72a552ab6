# Every target installs what it needs: Python packages into virtual environments, Debian packages (named first) with apt.

PYTHON := python3
PIP := pip install --quiet --disable-pip-version-check
VENV := .venv
TEST_VENV := build/venv-test
BENCH_VENV := build/venv-bench
# Debian's own interpreter, where it is new enough and no other is asked for: the one that the packages run on.
BENCH_PYTHON = $(if $(filter file,$(origin PYTHON)),$(shell \
	/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo /usr/bin/python3 || echo $(PYTHON)),$(PYTHON))
SOURCES := pyproject.toml README.md $(shell find senderscore_policy -type f -not -name '*.pyc')
# Where the commands look for the control socket when nothing is configured.
RUNTIME := $(or $(XDG_RUNTIME_DIR),$(HOME)/.local/state)/senderscore-policy

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test chaos fuzz bench accuracy soak lint deb release deb-test molecule clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 14

run: $(VENV)/.run ## serve a demo on 127.0.0.1:10045 that asks no real zone
	@mkdir -p build '$(RUNTIME)'
	@echo "The demo answers on 127.0.0.1:10045; README.md shows what to ask it. Ctrl-C ends it."
	@exec env STATE_DIRECTORY="$$(mktemp -d '$(CURDIR)/build/demo.XXXXXX')" RUNTIME_DIRECTORY='$(RUNTIME)' \
		$(VENV)/bin/senderscore-policy serve -c docs/demo.toml

test: $(TEST_VENV)/.installed ## build the wheel, install it and run every test against it; PYTEST="-k …" selects
	tests/install-components bash-completion chromium memcached postfix prometheus rbldnsd scdoc
	$(TEST_VENV)/bin/pytest --installed $(PYTEST)

chaos: $(TEST_VENV)/.installed ## break everything behind the daemon under load, write docs/reliability.md; CHAOS=--short only looks
	tests/chaos/chaos $(TEST_VENV) $(CHAOS)

fuzz: ## feed garbage to parser, DNS answers, memcached's replies, configuration and state; SECONDS=60 in all
	tests/fuzz/run $(or $(SECONDS),60)

accuracy: $(BENCH_VENV)/.installed ## simulate traffic against the windows, write docs/accuracy.md; a few minutes
	$(BENCH_VENV)/bin/python benchmarks/accuracy.py

soak: $(BENCH_VENV)/.installed ## watch the daemon for SECONDS=3600 of realistic traffic and write docs/soak.md
	tests/install-components gcc libc6-dev memcached rbldnsd
	$(BENCH_VENV)/bin/python benchmarks/soak.py $(or $(SECONDS),3600)

bench: $(BENCH_VENV)/.installed ## measure how fast everything is and write docs/performance.md, twenty minutes; BENCH=--quick tries it
	benchmarks/bench $(BENCH_VENV) $(BENCH)

lint: $(VENV)/.lint ## ruff, mypy, the import rules and the language
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python tests/language

deb: ## build the Debian package in a clean Debian 12, check it, put it into dist/
	.ci/deb

release: ## build wheel, sdist, Debian package, collection and SHA256SUMS into dist/, and install each in a clean Debian 13
	.ci/release

deb-test: ## try the package in dist/ on Debian 12 and 13: life cycle, autopkgtest, piuparts; and the container image
	.ci/deb-test
	.ci/container-test

molecule: ## lint the Ansible role and prove it on Debian 12 and 13: SCENARIO="default cluster degraded unsafe"
	molecule/run $(SCENARIO)

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist

# uvloop makes the daemon faster, and it does without.
$(VENV)/.run: pyproject.toml
	tests/make-venv $(PYTHON) $(VENV)
	$(VENV)/bin/$(PIP) --editable '.[uvloop]' || $(VENV)/bin/$(PIP) --editable .
	@touch $@

$(VENV)/.lint: $(VENV)/.run
	$(VENV)/bin/$(PIP) --editable '.[lint,test]'
	@touch $@

$(BENCH_VENV)/.installed: $(SOURCES)
	tests/make-venv $(BENCH_PYTHON) $(BENCH_VENV)
	$(BENCH_VENV)/bin/$(PIP) '.[bench,uvloop]' || $(BENCH_VENV)/bin/$(PIP) '.[bench]'
	$(BENCH_VENV)/bin/$(PIP) --force-reinstall --no-deps .
	@touch $@

$(TEST_VENV)/.installed: $(SOURCES)
	tests/make-venv $(PYTHON) $(TEST_VENV)
	rm -rf build/wheel
	$(TEST_VENV)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	wheel="$$(echo build/wheel/*.whl)"; \
		$(TEST_VENV)/bin/$(PIP) "$$wheel[test,browser,uvloop]" || $(TEST_VENV)/bin/$(PIP) "$$wheel[test]"
	$(TEST_VENV)/bin/$(PIP) --force-reinstall --no-deps build/wheel/*.whl
	@touch $@
