# Each target does its own set-up: a Python 3.10 is all that has to be there. A second run installs nothing.
.PHONY: help setup demo test lint bench accuracy chaos attack catalogue users lock images clean
ARGS ?=

help:
	@sed -n 's/^## //p' Makefile

## make setup   virtual environment in .venv, pinned packages, this package
setup:
	@sh .ci/setup

## make demo    Redis, a worker, two parties' files and four jobs, here and now
demo: setup
	@.venv/bin/sfworker demo $(ARGS)

## make test    static checks and all tests; ARGS goes to pytest
test: setup
	@sh .ci/check test $(ARGS)

## make lint    the static checks alone
lint: setup
	@sh .ci/check lint

## make bench   the figures, as a table
bench: setup
	@.venv/bin/python -m tests.bench $(ARGS)

## make accuracy how near the plain computation each task type comes, as a table
accuracy: setup
	@.venv/bin/python -m tests.accuracy $(ARGS)

## make chaos    ten minutes in which everything is killed, paused and restarted; fails on any violation
chaos: setup
	@.venv/bin/python -m tests.chaos $(ARGS)

## make attack   every attack that is a test, and a table of boundary, attack and outcome
attack: setup
	@.venv/bin/python -m pytest -q -m 'attack and not slow' -p tests.attack.table $(ARGS)

## make catalogue  sfworker/catalog/README.md from the structs there
catalogue: setup
	@SFWORKER_JOBS= .venv/bin/sfworker tasks --markdown >sfworker/catalog/README.md

## make users   the ids of the Lua scripts in deploy/users.acl, after one was changed
users: setup
	@.venv/bin/python deploy/pin-scripts.py

## make lock    requirements.lock from pyproject.toml; ARGS=--upgrade takes the newest versions
lock:
	@sh .ci/lock $(ARGS)

## make images  the digests of base images in Dockerfile and the compose files, as their tags stand now
images:
	@sh .ci/images

## make clean   removes what these targets made
clean:
	rm -rf .venv .uv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
