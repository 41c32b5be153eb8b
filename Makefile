# Everything a person does with a checkout. `make help` lists it. Needs Python 3.11 or newer with pip and venv.
PYTHON ?= python3
MODEL ?= qwen2.5-coder-1.5b
STUDENT ?= smollm2-135m
VENV := .venv
BIN := $(VENV)/bin
TRAINERS := .venv-trainers
TORCH ?= torch==2.13.0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run student student-rationale test test-trainers test-student test-browser check build bench docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

$(BIN)/python:
	@echo "== creating a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(BIN)/python pyproject.toml
	@echo "== installing distillgen with the embedded teacher's runtime (about 150 MB)"
	$(BIN)/python -m pip install --quiet -e '.[embedded]'
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	@echo "== installing distillgen with what the tests need (about 350 MB)"
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-check: $(VENV)/.installed-test
	@echo "== installing the linter and the type checker"
	$(BIN)/python -m pip install --quiet -e '.[check]'
	@touch $@

run: $(VENV)/.installed-run ## build the quickstart dataset with the embedded teacher (MODEL=smollm2-135m: the small way)
	@echo "== the teacher's weights: $(MODEL)"
	$(BIN)/distillgen teachers install $(MODEL)
	@test -e quickstart/recipe.toml || $(BIN)/distillgen init quickstart --model $(MODEL)
	@echo "== building the quickstart dataset in quickstart/"
	$(BIN)/distillgen build quickstart --set 'teachers.main.model="$(MODEL)"'

$(VENV)/.installed-student: $(VENV)/.installed-run
	@echo "== installing the student's trainer (1.5 GB; several GB more where $(TORCH) means the CUDA build: docs/student.md)"
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet -e '.[embedded,student]'
	@touch $@

student: $(VENV)/.installed-student ## the whole loop: a teacher labels, a student is trained, both are measured (half an hour)
	$(call distil,sentiment,)

student-rationale: $(VENV)/.installed-student ## 400 sentences, the student learning the teacher's reasons too (distilling step by step)
	$(call distil,sentiment-rationale,--teacher none)

# $(1): a ready recipe, which gives the project and the dataset their names; $(2): how the evaluation differs. Reasons
# take the teacher five times as long as labels, and are not asked for again where only the student is of interest.
define distil
	@echo "== the teacher's weights, and the student's"
	$(BIN)/distillgen teachers install $(MODEL)
	$(BIN)/distillgen teachers install $(STUDENT)
	@test -e $(1)/recipe.toml || $(BIN)/distillgen init $(1) --recipe $(1) --model $(MODEL)
	@echo "== the teacher labels"
	$(BIN)/distillgen build $(1)
	@echo "== the student is trained"
	$(BIN)/distillgen student train $(1) --project $(1) --base $(STUDENT) --out $(1)/student
	@echo "== teacher, untouched base and student answer the same questions, of which people know the answers"
	$(BIN)/distillgen student evaluate --student $(1)/student --project $(1) \
		--on $(1)/seeds/sentences_gold.jsonl --limit 450 --by group $(2)
endef

test: $(VENV)/.installed-test ## set up and pass the tests (installs the small model smollm2-135m, 98 MB)
	@echo "== the small teacher for the tests"
	$(BIN)/distillgen teachers install smollm2-135m
	@echo "== tests"
	$(BIN)/python -m pytest -q

$(TRAINERS)/.installed: pyproject.toml tests/trainers/requirements.txt tests/trainers/loaders.txt
	@echo "== installing the trainers' packages in $(TRAINERS) (2 GB; more where $(TORCH) means the CUDA build)"
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet '$(TORCH)'
	$(TRAINERS)/bin/python -m pip install --quiet -r tests/trainers/requirements.txt -e '.[parquet,embedded]'
	$(TRAINERS)/bin/python -m pip install --quiet --no-deps -r tests/trainers/loaders.txt
	@touch $@

test-trainers: $(TRAINERS)/.installed ## open what `export` writes with the trainers' own packages, and train a tiny model
	HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 AXOLOTL_DO_NOT_TRACK=1 UNSLOTH_DISABLE_STATISTICS=1 \
		$(TRAINERS)/bin/python -m pytest -q -W ignore tests/trainers

test-student: $(TRAINERS)/.installed ## train a tiny student, stop it, go on, measure it (installs smollm2-135m, 98 MB)
	$(TRAINERS)/bin/distillgen teachers install smollm2-135m
	HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 $(TRAINERS)/bin/python -m pytest -q -W ignore tests/student

$(VENV)/.installed-browser: $(VENV)/.installed-test tests/browser/requirements.txt
	@echo "== installing Playwright (50 MB), and Chromium where it is not there (300 MB; Debian's package, as root)"
	$(BIN)/python -m pip install --quiet -r tests/browser/requirements.txt
	@command -v chromium google-chrome >/dev/null || test -n "$$CHROMIUM" || \
		{ apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "Chromium is needed: install it, or name it with CHROMIUM=/path/to/it" >&2; exit 1; }
	@touch $@

test-browser: $(VENV)/.installed-browser ## look at a report in Chromium, driven by Playwright
	$(BIN)/python -m pytest -q -n 0 tests/browser

check: $(VENV)/.installed-check ## ruff, mypy --strict, and whether generated pages are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/make.py --check

build: $(VENV)/.installed-test ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

docs: $(VENV)/.installed-test ## write the generated pages and the snapshots of the help anew
	$(BIN)/python docs/make.py

bench: $(VENV)/.installed-run ## measure for ten minutes: the engine, 5,000 stored answers, two minutes of each limit
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/stored.py --rows 1 5000
	$(BIN)/python bench/limits.py --quick

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) $(TRAINERS) dist build
