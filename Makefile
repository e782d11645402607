# Builds .venv from constraints.txt: with uv where it is installed, else (or with UV=) venv and pip.
# uv takes the build of torch that fits this machine; UV_TORCH_BACKEND=cpu, say, chooses one. pip takes
# the package index's, which on Linux is the one for CUDA, several GB.

VENV ?= .venv
UV ?= $(shell command -v uv 2>/dev/null)

ifeq ($(OS),Windows_NT)
PY := $(VENV)/Scripts/python.exe
else
PY := $(VENV)/bin/python
endif

ifneq ($(UV),)
create = "$(UV)" venv -q --clear --seed --python '>=3.11,<3.15' $(VENV)
uv_install = "$(UV)" pip install -q --python $(PY) -c constraints.txt -r pyproject.toml
install = UV_TORCH_BACKEND=$${UV_TORCH_BACKEND:-auto} $(uv_install) $(1) 2>/dev/null || $(uv_install) $(1)
else
FITS = import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c "$(FITS)" 2>/dev/null && echo "$$p" && break; done)
NEITHER = install uv (https://docs.astral.sh/uv), or Python 3.11 to 3.14 with venv and pip
create = $(if $(PYTHON),"$(PYTHON)" -m venv --clear $(VENV),$(error $(NEITHER)))
install = $(PY) -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt '.$(if $(1),[dev])' && rm -rf build *.egg-info
endif

help:
	@echo "make train   train the first example, configs/digits_mlp.yaml"
	@echo "make test    run the tests"
	@echo "make lint    check style and types"
	@echo "make bench   measure speed and memory"
	@echo "make chaos   kill, damage and fill up runs, and see that nothing is lost"
	@echo "make clean   remove $(VENV) and the caches; runs stay"

train: $(VENV)/.core
	$(PY) -m src fit --config configs/digits_mlp.yaml
	@echo "Next: $(PY) -m src list"
	@echo "      $(PY) -m src fit --config configs/digits_mlp.yaml --model.net.hidden_dims [256,128]"
	@echo "      $(PY) -m src test --ckpt_path $$(ls -t runs/*/checkpoints/best.ckpt | head -n 1)"

test: $(VENV)/.dev
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	"$(dir $(PY))zizmor" --offline --quiet .github

bench: $(VENV)/.dev
	$(PY) -m scripts.bench $(BENCH)

chaos: $(VENV)/.dev
	$(PY) -m scripts.chaos $(CHAOS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.core: pyproject.toml constraints.txt | $(PY)
	@echo "Installing the dependencies into $(VENV): a minute or two, once"
	@$(call install)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	@echo "Installing the dependencies and the tools into $(VENV): a minute or two, once"
	@$(call install,--extra dev)
	@touch $(VENV)/.core $@

$(PY):
	@$(create)

.PHONY: help train test lint bench chaos clean
