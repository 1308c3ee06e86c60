# `make` sets up and runs the main job; `make help` lists the rest.
# The set-up lives in .venv and is redone only when a file that names requirements has changed.

TORCH ?= torch==2.13.0
BIN := .venv/bin

run: .venv/ready
	$(BIN)/motionbench run

# The notebooks' examples are tests too: nbdev-test runs those outside a folder with a .notest file.
test: .venv/ready
	@skip=$$($(BIN)/python -c 'from motionbench.rollouts.offscreen import gl_backend; gl_backend()' >/dev/null 2>&1 || echo '^(28_offscreen|29_stage|30_replay|31_gallery|32_batch|16_rollouts_replay)'); \
	test -z "$$skip" || echo "no OpenGL here, so the examples that render films are left out; apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri brings one"; \
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 $${skip:+--skip-file-re "$$skip"}
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

docs: .venv/ready
	$(BIN)/python nbs/_site.py

# LAB="--no-browser --port 8890" and the like are handed to JupyterLab.
lab: .venv/ready
	$(BIN)/jupyter lab --ServerApp.root_dir=nbs --LabApp.default_url=/lab/tree/tutorials/00_start.ipynb $(LAB)

# The player's bundle from its sources; needs Node.js and npm, and is committed, so only who changes the sources needs this.
player:
	mkdir -p build/player && cp motionbench/assets/player/package.json build/player/
	npm install --prefix build/player --no-package-lock --no-audit --no-fund --silent
	NODE_PATH=$(CURDIR)/build/player/node_modules build/player/node_modules/.bin/esbuild motionbench/assets/player/src/index.js --bundle --minify --format=esm --target=es2022 --loader:.css=text --legal-comments=none --log-level=warning "--banner:js=/* motionbench player, made by make player from sources $$(cat motionbench/assets/player/package.json motionbench/assets/player/src/* | sha256sum | cut -c1-16); contains three.js, see LICENSES */" --outfile=motionbench/assets/player/player.js

screenshots: .venv/ready
	set -e; for script in tests/screenshots*.py; do $(BIN)/python $$script; done

.venv/ready: settings.ini pyproject.toml setup.py constraints.txt .ci/setup
	@sh .ci/setup install $(PY)
	@touch $@

help:
	@echo 'make         set up .venv, then retarget, audit and convert the bundled clips into out/'
	@echo 'make test    set up, run the examples of the notebooks, then pytest'
	@echo 'make docs    set up, write README.md and the sidebar, build the site in _docs/, check its links'
	@echo 'make lab     set up, open the start notebook in JupyterLab; LAB="--no-browser --port 8890" for its options'
	@echo 'make player  build the bundle of the 3-D player anew; needs npm'
	@echo 'make screenshots   pictures of the player, pages and JupyterLab in out/screenshots; needs Chromium'
	@echo
	@echo 'PY=python3.12              the Python to use (3.11 to 3.13); default: the first one found'
	@echo 'TORCH=torch==2.13.0        the torch to install first, with any option of pip, for instance'
	@echo 'TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"    without CUDA'

export TORCH
.PHONY: run test docs lab player screenshots help
