# m3DICOM: `make run` starts it, `make test` proves it, `make trial DATA=FOLDER` runs the main job on real files.
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= python3
EXTRAS := mesh
STAMPS := .venv/.stamps

.PHONY: help run demo install worker-install test unit lint types format docs trial prove conformance gpu viewer clean packages

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 18

run: install  ## install what is needed, start the server, print what to open
	@exec .venv/bin/m3dicom serve --data data

demo: install  ## send synthetic studies to the server that `make run` started
	@.venv/bin/m3dicom demo --data data

install: $(STAMPS)/tools  ## set up only: .venv/bin/m3dicom and the viewer
	@.ci/install.sh "$(EXTRAS)" viewer

worker-install: $(STAMPS)/tools  ## set up a machine that only runs workers: no node needed
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis"

$(STAMPS)/tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "m3DICOM needs Python 3.11 or newer as python3 (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "m3DICOM needs Python's venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@mkdir -p $(STAMPS) && touch $@

packages:  ## install the system packages that the tests need (root or sudo)
	@.ci/packages.sh

test: packages $(STAMPS)/tools  ## everything: real Redis, PostgreSQL, S3 servers, Chromium, DCMTK, validators
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test" viewer
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
	@cd viewer/web && npm test --silent

unit: $(STAMPS)/tools  ## the pure tests only: seconds
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test"
	@$(PY) -m pytest tests/unit -q $(ARGS)

lint: $(STAMPS)/tools  ## ruff, biome, shellcheck
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test" viewer
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@cd viewer/web && npm run --silent lint

types: $(STAMPS)/tools  ## mypy strict, tsc
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test" viewer
	@.venv/bin/mypy
	@cd viewer/web && npm run --silent types

docs: $(STAMPS)/tools  ## write the generated pages again
	@$(PY) -m pacs.server.documents write

trial: install packages  ## the main job on real files: make trial DATA=FOLDER
	@test -n "$(DATA)" || { echo "name the folder with DICOM files: make trial DATA=FOLDER" >&2; exit 2; }
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test" viewer
	@$(PY) tests/trial.py "$(DATA)" $(ARGS)

prove: packages $(STAMPS)/tools  ## the long runs, written up in docs/proofs.md: make prove [ONLY=name,name] [ARGS=--list]
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test,fuzz"
	@PYTHONPATH=tests $(PY) -m prove --only "$(ONLY)" $(ARGS)

conformance: packages $(STAMPS)/tools  ## judge this server and Orthanc by the standard: docs/conformance-reports.md
	@.ci/install.sh "$(EXTRAS),s3,postgresql,redis,test"
	@PYTHONPATH=tests $(PY) -m prove --only conformance --no-report $(ARGS)

gpu: $(STAMPS)/tools  ## on a machine with a GPU and CuPy: is CuPy equal to NumPy, and how fast? (ARGS=--against numpy without)
	@.ci/install.sh "$(EXTRAS)"
	@$(PY) tests/gpu/parity.py $(ARGS)

format:
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

clean:
	rm -rf .venv viewer/static viewer/web/node_modules build dist .pytest_cache .mypy_cache .ruff_cache
