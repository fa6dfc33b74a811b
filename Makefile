# make demo: set up and run the main job.  make test: set up and run lint, types and all tests.
# make docs: the site, into site/.  make benchmark: speeds on this machine, into docs/benchmarks/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests against a reference, which have to hold on every kind of CPU: run as if on two simpler ones as well.
NUMERIC := tests/layers tests/algorithms tests/test_coordinates.py tests/test_extractors.py tests/tasks/toy -m numeric

.PHONY: install demo test docs benchmark clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/python scripts/compare.py --config configs/compare/demo.yaml
	$(BIN)/python scripts/evaluate.py runs/demo/KungFuMaster/coordconv/seed1 --games 8 --gif runs/demo/coordconv.gif

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest --quiet --numprocesses auto $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest --quiet --numprocesses auto $(NUMERIC)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: install
	$(BIN)/python scripts/benchmark.py all

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site
