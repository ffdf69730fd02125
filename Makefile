# xadflow: `make` alone lists the targets. Every target does its own set-up in .venv; all it needs is Python 3.11.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
# Where .venv was made: its commands name that folder, so in a moved or copied checkout they run the code of another one.
MADE_IN := $(shell sed -n 's/^command = .* -m venv //p' .venv/pyvenv.cfg 2>/dev/null)
MOVED := $(shell test -z "$(MADE_IN)" || test "$(MADE_IN)" = "$(CURDIR)/.venv" || echo yes)
UV := uv==0.13.9
export PATH := $(CURDIR)/$(BIN):$(PATH)
export XADFLOW_PROJECT := $(CURDIR)
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
JOBS ?= 2
QUICK ?=
QUICK_FLAG := $(if $(QUICK),--quick,)

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*## .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-27s %s\n", $$1, $$2}'

ifeq ($(MOVED),yes)
.PHONY: $(STAMP)
endif

setup: $(STAMP) ## make .venv with every pinned package (about 6.5 GB)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || { echo "xadflow needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	@started=$$SECONDS; \
	test -z "$(MOVED)" || { echo "this checkout was moved or copied from $(MADE_IN): .venv is made anew"; rm -rf .venv; }; \
	test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	echo "setting up .venv (about 5 GB to fetch; a minute or several)"; \
	$(PIP) $(UV) && { $(BIN)/uv pip install --quiet --native-tls --compile-bytecode --python $(BIN)/python --no-deps \
	  -r requirements.lock || { echo "uv could not; pip takes several minutes"; $(PIP) -r requirements.lock; }; } \
	&& $(PIP) --no-build-isolation -e . \
	&& touch $(STAMP) && echo "set-up took $$((SECONDS - started)) s"

demo: setup ## the whole loop on real images, from data to audited explanations
	@$(BIN)/xadflow demo

demo-diverse: setup ## the same on coloured digits, with a generator of several counterfactuals an image (longer: it trains one)
	@$(BIN)/xadflow data fetch mnist
	@$(BIN)/xadflow demo --diverse

check: setup ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy -n $(JOBS)
	@$(BIN)/lint-imports --no-cache

test: check ## check, then every test (JOBS=4 for four processes; each takes about 3 GB)
	@$(BIN)/python -m pytest -n $(JOBS) --durations=20

test-server: setup ## only the tests that start real servers
	@$(BIN)/python -m pytest -m server

server: setup ## Prefect server, MLflow server and a worker on loopback; both flows deployed with their schedules
	@$(BIN)/python -m flows.servers.server --prefect-port $(PREFECT_PORT) --mlflow-port $(MLFLOW_PORT)

bench-elpv: setup ## image AUROC on ELPV, random and block split (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.elpv $(QUICK_FLAG)

bench-elpv-family: setup ## what else FCDD can be on ELPV: sizes, trunks, cell types, fine-tuning (QUICK=1: the search alone)
	@$(BIN)/python -m benchmarks.elpv_family $(QUICK_FLAG)

bench-nightly: setup ## the nightly path end to end, and what the orchestrator costs (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.nightly $(QUICK_FLAG)

bench-audit: setup ## verifying 100,000 rows of evidence, and adding to them (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.audit $(QUICK_FLAG)

faults: setup ## break one thing at a time under real runs, see what becomes of the work; half an hour or more (QUICK=1: kills of a night)
	@$(BIN)/python -m benchmarks.faults $(QUICK_FLAG)

bench-one-class: setup ## one-vs-rest image AUROC on Fashion-MNIST and MNIST, cell by cell (QUICK=1: 3 classes, 1 seed)
	@$(BIN)/python -m benchmarks.one_class $(QUICK_FLAG)

bench-textures: setup ## image and pixel AUROC and AUPRO on textures with exact masks (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.textures $(QUICK_FLAG)
	@$(if $(QUICK),,$(BIN)/python -m benchmarks.textures_ceiling)

bench-finer-map: setup ## FCDD's heatmap from finer stages: where it points on textures, and what it costs (QUICK=1: brick, 1 seed)
	@$(BIN)/python -m benchmarks.finer_map $(QUICK_FLAG)

bench-dense: setup ## dense open-set recognition on generated scenes: hybrid against its parts (QUICK=1: 1 seed, few steps)
	@$(BIN)/python -m benchmarks.dense $(QUICK_FLAG)

bench-counterfactuals: setup ## several counterfactuals an anomaly on Coloured-MNIST, judged by readers, cell by cell (QUICK=1: 1 seed, fewer steps)
	@$(BIN)/python -m benchmarks.counterfactuals $(QUICK_FLAG)

bench-utad: setup ## UTAD and its ablation on textures, ELPV and clothes, cell by cell (QUICK=1: brick, 1 seed)
	@$(BIN)/python -m benchmarks.utad $(QUICK_FLAG)

bench-transplant: setup ## transplants beside other counterfactuals and controls, by judges that explain nothing, cell by cell (QUICK=1: brick, 1 seed)
	@$(BIN)/python -m benchmarks.transplant $(QUICK_FLAG)
	@$(if $(QUICK),,$(BIN)/python -m benchmarks.transplant --speed)

bench-counterfactuals-elpv: setup ## counterfactuals of real defects: the product's own, then by a robustly trained detector and its plain twin (QUICK=1: 1 seed, 24 defects)
	@$(BIN)/python -m benchmarks.counterfactuals_elpv_product $(QUICK_FLAG)
	@$(BIN)/python -m benchmarks.counterfactuals_elpv $(QUICK_FLAG)

bench-counterfactuals-single: setup ## the same for one class of MNIST and of Fashion-MNIST, four detectors, cell by cell (QUICK=1: 1 cell, few steps)
	@$(BIN)/python -m benchmarks.counterfactuals_single $(QUICK_FLAG)

bench-robust: setup ## where counterfactuals change an image, by a robustly trained detector and its plain twin (QUICK=1: 1 seed)
	@$(BIN)/python -m benchmarks.robust $(QUICK_FLAG)

bench-speed: setup ## how fast the one-class family is fed and trained, beside a loader of single images (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.one_class_speed $(QUICK_FLAG)

bench-sparse: setup ## how fast sparse counterfactuals are found, beside an oracle that sorts and bisects (QUICK=1 for 64 px)
	@$(BIN)/python -m benchmarks.sparse_speed $(QUICK_FLAG)

bench-dense-overhead: setup ## what DenseHybrid's dataset head and score cost over plain segmentation (QUICK=1: the light net)
	@$(BIN)/python -m benchmarks.dense_overhead $(QUICK_FLAG)

bench-probe: setup ## what a planted watermark does to heatmaps and AUROC (QUICK=1 for a subset)
	@$(BIN)/python -m benchmarks.probe $(QUICK_FLAG)

bench-large-images: setup ## photos and strips with small defects through every command, and what memory they take (QUICK=1: smaller images)
	@$(BIN)/python -m benchmarks.large_images $(QUICK_FLAG)

figures: setup ## write docs/reference/benchmarks.md from benchmarks/results
	@$(BIN)/python -m benchmarks.render

errors-page: setup ## write docs/reference/errors.md from what the commands answer (about a minute)
	@XADFLOW_WRITE_ERRORS_PAGE=1 $(BIN)/python -m pytest -q tests/hostile/test_every_error_is_answered_as_the_page_says.py

clean: ## remove .venv and caches; var/ and data/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
