# Two commands do everything from a fresh clone: `make train` and `make test`. Each makes .venv first if it is not there.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PROCESSES ?= 2
CORPUS := corpora/python-stdlib
RUN    := runs/quickstart
# Where there is no GPU, torch's CPU build is enough and saves gigabytes; its index is asked only where it answers.
CPU_INDEX := https://download.pytorch.org/whl/cpu

export OMP_NUM_THREADS ?= 1
# A JIT build of DeepSpeed's would otherwise share one cache, and its lock, with every other project of the user.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions

.DEFAULT_GOAL := help
.PHONY: help setup train test test-nightly check docs bench clean

help:           ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(VENV)/.installed  ## make .venv and install the pinned packages

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	@index=; if ! command -v nvidia-smi >/dev/null 2>&1 && \
	  $(PYTHON) -c "import urllib.request as r; r.urlopen('$(CPU_INDEX)/torch/', timeout=5)" >/dev/null 2>&1; \
	  then index="--index-url $(CPU_INDEX)"; fi; set -x; \
	  $(BIN)/pip install -q --disable-pip-version-check $$index -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[wandb,tensorboard,tests]'
	@touch $@

train: setup    ## prepare a real corpus, train a small GPT on it with DeepSpeed, plot, evaluate, sample
	@echo "== 1 of 5: raw text -> corpus (the Python standard library's own source)"
	$(BIN)/hexareme prepare input=python_stdlib output=$(CORPUS) tokenizer.kind=sentencepiece_bpe tokenizer.vocab_size=1024 held_out=0.05
	@echo "== 2 of 5: training with DeepSpeed ZeRO on $(PROCESSES) processes (Ctrl-C saves; the same command goes on)"
	$(BIN)/deepspeed --num_gpus $(PROCESSES) launcher/train.py experiment=quickstart data.train=$(CORPUS)
	@echo "== 3 of 5: the curves"
	$(BIN)/hexareme report directory=$(RUN)
	@echo "== 4 of 5: the model against a Kneser-Ney bigram model of the same tokens"
	$(BIN)/hexareme evaluate directory=$(RUN) baseline=bigram
	@echo "== 5 of 5: a sample"
	$(BIN)/hexareme generate directory=$(RUN) prompt="def " max_new_tokens=120 temperature=0.8 top_k=40 seed=1

test: setup     ## everything that CI runs
	$(BIN)/python -m pytest -q -m "not nightly"

test-nightly: setup  ## the slower suites as well
	$(BIN)/python -m pytest -q

check: setup    ## style, types
	$(BIN)/ruff check .
	$(BIN)/mypy conf data parallel core launcher

docs: setup     ## what the README takes from the code: the table of valid combinations
	$(BIN)/python docs/update.py

bench: setup    ## what the performance table of the README claims
	@for suite in overhead bytes memory bubble checkpoint; do $(BIN)/hexareme bench suite=$$suite || exit 1; done

clean:          ## remove what `make train` made; not .venv
	rm -rf runs/quickstart $(CORPUS)
