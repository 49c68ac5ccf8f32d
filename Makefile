# The commands of this project. Each works on a fresh clone with Python >= 3.11 and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup check lint quick test gpu fuzz mutants docs demo format clean

setup: $(STAMP)  ## make .venv and install focaldet with its development tools

# torch first: the C++ kernels are compiled against the torch that is installed.
$(STAMP): pyproject.toml constraints.txt $(wildcard setup.py csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "focaldet needs Python >= 3.11; name one with: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt ninja==1.13.2
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[train,export,video,serve,large]"
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	touch $(STAMP)

check: $(STAMP)  ## the gate: formatter, linter, types, quick tests (up to 6 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j 2 lint quick

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .  # its cache does not see a module that moves
	$(BIN)/mypy

# One thread each: two tests side by side would otherwise fight for the cores.
quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not slow"

test: check  ## everything, including slow tests (up to 24 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadscope -m "slow and not alone" --durations=15
	$(BIN)/pytest -q -m alone --durations=5 $$(grep -rl --include='*.py' mark.alone tests)

# Skips where there is no GPU. The benchmark's photos: make gpu DATA=folder
DATA := demo/digits
gpu: $(STAMP)  ## what needs a CUDA GPU: tests of kernels and steps, then benchmarks/results/gpu.md
	$(BIN)/pytest -q -m gpu -rs tests/kernels/test_gpu.py tests/engine/test_on_gpu.py || test $$? -eq 5  # 5: none ran
	! $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || $(BIN)/python -m benchmarks.gpu $(DATA)

# Another SEED tries other inputs. Inputs that reveal faults are kept in KEEP; repeat one with --kinds KIND --only NUMBER.
SEED := 0
INPUTS := 5000
KEEP := build/hostile
fuzz: $(STAMP)  ## damaged files and arguments of every kind (docs/reliability.md; half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/fuzz.py --seed $(SEED) --inputs $(INPUTS) --keep $(KEEP)

docs: $(STAMP)  ## the documentation as a site, in build/site
	$(BIN)/python -m sphinx --fail-on-warning -q -c docs/site . build/site

MUTANTS := 100
mutants: $(STAMP)  ## break the losses, assignments, boxes and methods 100 times: do the quick tests notice? (an hour)
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/mutants.py --seed $(SEED) --count $(MUTANTS)

demo: $(STAMP)  ## train a small detector in four minutes and write its report
	$(BIN)/focaldet demo

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
