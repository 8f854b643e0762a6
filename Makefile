# `make` lists the targets. Every target first makes the environment in .venv if it is missing or out of date
# (tools/setup_env.sh). Nothing has to be installed or activated by hand.
#   make PYTHON=/path/to/python3.12 ...   the interpreter to build the environment with (3.11 to 3.13)
#   make VENV=/elsewhere/env ...          another folder for the environment
#   make bench OUT=/elsewhere            where the times go (runs/bench)
#   make demo ARGS="--out_dir runs/mine"  more arguments for the command behind demo, lab or bench
VENV ?= .venv
BIN := $(VENV)/bin
# How many notebooks, and then files of tests, run side by side, each on one thread. With two threads each, two of them
# on two cores are ten times slower.
WORKERS ?= 2
ARGS ?=
OUT ?= runs/bench
export PYTHON
export PYTHONNOUSERSITE = 1
export JUPYTER_PREFER_ENV_PATH = 1
unexport PYTHONPATH PYTHONHOME IN_TEST
.DEFAULT_GOAL := help
.PHONY: help env demo test lab bench bench-quick compare readme sync clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

env:
	@sh tools/setup_env.sh "$(VENV)"

demo: env ## all five stages on phantoms, minutes on two cores: a table of scores and a picture of cases
	@$(BIN)/sabr_run --demo $(ARGS)

test: env ## everything: notebooks in step with the code and in form, every notebook executed, tests/
	@$(BIN)/python tools/check_sync.py
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(WORKERS) --timing
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lab: env ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) nbs

bench: env ## time and memory of all networks, half an hour on two cores: OUT/bench.json, a table and a picture
	@$(BIN)/sabr_bench --out $(OUT) $(ARGS)

bench-quick: env ## the same at 256 px with one image, minutes
	@$(BIN)/sabr_bench --quick --out $(OUT) $(ARGS)

compare: env ## default recipe against all rivals on phantoms, an hour on two cores; ARGS="--dataset busi" for your data
	@$(BIN)/sabr_compare $(ARGS)

readme: env ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/build_readme.py

sync: env ## after editing notebooks: format, clean and export them, write parameters and README.md
	@$(BIN)/ruff format -q nbs tests tools setup.py
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export
	@$(BIN)/ruff format -q sabr
	@$(BIN)/python tools/write_parameters.py
	@$(BIN)/python tools/build_readme.py

clean: ## remove caches and build products (runs/, data/ and .venv stay)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache _proc _docs
	@find . -path './$(VENV)' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
		-exec rm -rf {} +
