# Evertune. `make` lists the targets; the two that matter are `make up` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup up serve down status test test-unit check format demo bench bench-training bench-serving bench-labels golden clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## virtual environment with the locked dependencies (2 minutes, once)

# A changed lock installs again; an unchanged one costs nothing.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: $(STAMP)  ## start everything and train a first model; Ctrl-C stops it
	@exec $(BIN)/evertune up

serve: $(STAMP)  ## the same in the background: returns when the model answers
	@exec $(BIN)/evertune up --detach

down: $(STAMP)  ## stop what `make serve` started
	@exec $(BIN)/evertune down

status: $(STAMP)  ## servers, champions, last retrain and verdict
	@exec $(BIN)/evertune status

test: $(STAMP)  ## set-up and the whole suite
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-unit: $(STAMP)  ## the fast tier alone
	@exec $(BIN)/python -m pytest -q tests/unit

check: $(STAMP)  ## style, types, import contracts, every loop's YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/evertune check

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(STAMP)  ## the loop closing on real text: drift, alert, labels, retrain, release
	@exec $(BIN)/evertune demo

bench: $(STAMP)  ## benchmarks: the loop's overhead, false alarms and power
	$(BIN)/python -m tests.bench.loop
	$(BIN)/python -m tests.bench.drift --windows 100 --power-windows 25 --contenders evertune
	$(BIN)/python -m tests.bench.gate
	$(BIN)/python -m tests.bench.staging

bench-training: $(STAMP)  ## training beside the usual recipe, VADER and people (BENCH_DATA=DIR, BENCH_RESUME=FILE)
	@exec $(BIN)/python -m tests.bench.training $(if $(BENCH_DATA),--data $(BENCH_DATA)) $(if $(BENCH_RESUME),--resume $(BENCH_RESUME))

bench-serving: $(STAMP)  ## the prediction service beside other servers (BENCH_HOME=DIR, BENCH_RIVALS=DIR: see --help)
	$(BIN)/python -m tests.bench.serving.fuzz
	$(BIN)/python -m tests.bench.serving $(if $(BENCH_HOME),--home $(BENCH_HOME)) $(if $(BENCH_RIVALS),--rivals $(BENCH_RIVALS))

bench-drift: $(STAMP)  ## false alarms and power beside Evidently and alibi-detect (BENCH_HOME=DIR, BENCH_RIVALS=DIR: see --help)
	@mkdir -p $(or $(BENCH_HOME),.evertune/bench)
	$(BIN)/python -m tests.bench.accuracy --home $(or $(BENCH_HOME),.evertune/bench) > $(or $(BENCH_HOME),.evertune/bench)/accuracy.txt
	$(BIN)/python -m tests.bench.drift --home $(or $(BENCH_HOME),.evertune/bench) --accuracy $(or $(BENCH_HOME),.evertune/bench)/accuracy.txt $(if $(BENCH_RIVALS),--rivals $(BENCH_RIVALS))

bench-labels: $(STAMP)  ## live accuracy with few labels and none, labels that a retrain needs (BENCH_HOME=DIR keeps answers)
	$(BIN)/python -m tests.bench.accuracy --home $(or $(BENCH_HOME),.evertune/bench)
	$(BIN)/python -m tests.bench.labels --home $(or $(BENCH_HOME),.evertune/bench)

golden: $(STAMP)  ## rewrite the golden losses; the only way to do so
	@exec $(BIN)/python -m pytest -q tests/integration/test_fine_tuning.py --golden

clean:  ## delete the virtual environment and caches; never state under .evertune
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
