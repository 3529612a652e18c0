# demo | test | lint | bench | pictures; every target sets up what it needs in .venv.
#   TORCH_INDEX=<url>  take torch from that package index (PyTorch's CPU index saves gigabytes on Linux)
#   SLOW=1             make test runs the slow tests too; TESTS="tests/ops tests/nn" runs those alone
#   PYTHON=python3.12  the interpreter that makes .venv
#   BATCHNORM_REQUIRE_NATIVE=1  stop where the kernels cannot be built, instead of going on without them

PYTHON ?= python3
TORCH_INDEX ?=
SLOW ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
NATIVE := CMakeLists.txt $(shell find native -type f)

# What docs/explanation/pictures.md shows, as CLAIM-CHART, and the claims to run for it.
PICTURES := before-and-after-histograms layer-norm-axes faster-training-percentiles initialization-activations smoother-landscape-loss-range identity-branches-moments batch-size-error
CLAIMS := before-and-after layer-norm faster-training initialization smoother-landscape identity-branches batch-size

.PHONY: help demo test lint bench pictures clean
help:
	@sed -n 's/^# \{0,1\}//;1,5p' Makefile

demo: .venv/lab.done
	$(BIN)/batchnorm compare

test: .venv/test.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(if $(SLOW),,-m "not slow") $(TESTS)

bench: .venv/lab.done
	$(BIN)/batchnorm bench

# Continues where it stopped; needs Chrome or Chromium for the drawing.
pictures: .venv/pictures.done
	$(BIN)/batchnorm lab run $(CLAIMS) --quick --out batchnorm-runs/pictures
	$(BIN)/batchnorm lab pictures $(PICTURES) --survey batchnorm-runs/pictures --out docs/images/lab --format svg --theme light,dark
	$(BIN)/batchnorm lab pictures $(PICTURES) --survey batchnorm-runs/pictures --out docs/images/lab --format png

lint: .venv/lint.done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv

.venv/torch.done: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "batchnorm needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing torch: about 200 MB from a CPU index; gigabytes where the registry serves the CUDA build (TORCH_INDEX=<url> names another)"
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

.venv/batchnorm.done: .venv/torch.done pyproject.toml $(NATIVE)
	@echo "Installing batchnorm; where there is a C++ compiler (g++) its kernels are compiled, about two minutes of one core"
	$(PIP) -e .
	@sed -n 's/^state: /  kernels: /p; s/^reason: /  /p' .venv/lib/python*/site-packages/batchnorm/ops/native_build.txt
	@touch $@

# By name: it is installed already, and what the extras need is all that is left; -e would compile again.
.venv/lab.done: .venv/batchnorm.done
	@echo "Installing what compare and its report need: about 200 MB (scikit-learn, scipy, plotly, lightning, ...)"
	$(PIP) 'batchnorm[lab]'
	@touch $@

.venv/pictures.done: .venv/lab.done
	$(PIP) 'batchnorm[pictures]'
	@touch $@

.venv/test.done: .venv/lab.done
	@echo "Installing the test tools"
	$(PIP) 'batchnorm[test]'
	@touch $@

.venv/lint.done: .venv/lab.done
	@echo "Installing the lint tools"
	$(PIP) 'batchnorm[lint]'
	@touch $@
