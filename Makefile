PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CHROMIUM ?= chromium

.PHONY: quickstart test test-cluster test-browser test-slow test-studies test-notebooks test-gpu test-laws study bench bench-measurement check ui clean reference pictures screenshots notebook-pictures constraints

quickstart: $(INSTALLED)  ## set up, run the main job, write the report
	$(BIN)/stillpoint run experiments/quickstart.yaml

test: $(INSTALLED)  ## set up and run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not cluster and not slow and not studies and not laws and not notebooks and not gpu and not browser"

test-cluster: $(INSTALLED)  ## the tests that kill drivers and workers in mid-sweep
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m cluster --ignore tests/cluster
	$(BIN)/python -m pytest -q -m cluster tests/cluster

test-browser: $(INSTALLED)  ## MLflow and the report in a real Chromium (needs chromium)
	$(BIN)/python -m pytest -q -m browser tests/browser

test-slow: $(INSTALLED)  ## numerical checks at large width and many samples
	$(BIN)/python -m pytest -q -n 2 -m slow

test-studies: $(INSTALLED)  ## the quick profile of every study, with its seconds
	$(BIN)/python -m pytest -q -n 2 --durations 0 --durations-min 1 -m studies

test-notebooks: $(INSTALLED)  ## every notebook, run on a quickstart
	$(BIN)/python -m pytest -q -m notebooks tests/notebooks

test-gpu: $(INSTALLED)  ## on a machine with a GPU: its numbers, its captured steps, a sweep on it
	$(BIN)/python -m pytest -q -m gpu

test-laws: $(INSTALLED)  ## thousands of tables of every law, of which the truth is known: about an hour on 2 cores
	$(BIN)/python -m pytest -q -m laws

study: $(INSTALLED)  ## the sweeps that the theory is judged on; writes docs/study.md: about an hour
	$(BIN)/stillpoint study

bench: $(INSTALLED)  ## the suite, its peers and the hardware's ceiling; writes docs/performance.md: about 20 minutes
	$(BIN)/python -m benchmarks

bench-measurement: $(INSTALLED)  ## what measuring costs, by measurement: about 15 minutes
	$(BIN)/python -m benchmarks.measurement

check: $(INSTALLED)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(INSTALLED)  ## open MLflow on the quickstart's results
	$(BIN)/stillpoint ui results/quickstart

clean: $(INSTALLED)  ## remove caches; results and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info/SOURCES.txt
	find suite analysis tests -name __pycache__ -type d -exec rm -rf {} +

reference: $(INSTALLED)  ## make docs/experiment.md and the JSON schema from the models
	$(BIN)/python -c "from suite.reference import write; write()"

pictures: quickstart  ## make the pictures in docs/ from the quickstart's report (needs chromium)
	mkdir -p docs/pictures
	cp results/quickstart/figures/passages.png results/quickstart/figures/descent.png docs/pictures/
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
	  --disable-component-update --disable-sync --hide-scrollbars --user-data-dir=$$(mktemp -d) \
	  --window-size=1000,1500 --screenshot=docs/pictures/report.png file://$(CURDIR)/results/quickstart/report.html

screenshots: quickstart  ## make the pictures of MLflow in docs/ from the quickstart's results (needs chromium)
	$(BIN)/python tests/browser/screenshots.py results/quickstart docs/pictures

notebook-pictures: $(INSTALLED)  ## run the notebooks on a fresh quickstart and keep their pictures in docs/
	$(BIN)/python tests/notebooks/pictures.py

constraints: $(INSTALLED)  ## write the versions now installed as the exact pins
	(echo "# Exact versions that make installs; pyproject.toml has the ranges. Made by: make constraints"; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//') > constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; name another with make PYTHON=python3 (3.11 or newer)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
