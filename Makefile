# `make` sets up and runs the main job; `make help` lists the rest.
# The set-up lives in .venv and is redone only when a file that names requirements has changed.

TORCH ?= torch==2.13.0
BIN := .venv/bin

run: .venv/ready
	$(BIN)/motionbench run

# The notebooks' examples are tests too: nbdev-test runs those outside a folder with a .notest file.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2
	$(BIN)/python -m pytest -q

docs: .venv/ready
	$(BIN)/python nbs/_site.py

lab: .venv/ready
	$(BIN)/jupyter lab nbs

.venv/ready: settings.ini pyproject.toml setup.py constraints.txt .ci/setup
	@sh .ci/setup install $(PY)
	@touch $@

help:
	@echo 'make         set up .venv, then retarget, audit and convert the bundled clips into out/'
	@echo 'make test    set up, run the examples of the notebooks, then pytest'
	@echo 'make docs    set up, write README.md and the sidebar, build the site in _docs/, check its links'
	@echo 'make lab     set up, open the notebooks in JupyterLab'
	@echo
	@echo 'PY=python3.12              the Python to use (3.11 to 3.13); default: the first one found'
	@echo 'TORCH=torch==2.13.0        the torch to install first, with any option of pip, for instance'
	@echo 'TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"    without CUDA'

export TORCH
.PHONY: run test docs lab help
