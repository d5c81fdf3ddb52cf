# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs. The commands themselves stand in tox.ini.

TOX := .venv/bin/tox run --quiet -e

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint typing protos drift unit ceph contract storms conformance drills \
    play mutations faults kills fuzz soak deploy monitoring coverage clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian packages) and make .venv
	@scripts/setup

demo: setup ## Watch a volume replicate, fail over and survive, on two real Ceph sites
	@.venv/bin/python -m demo

test: setup ## Run lint, typing, stubs, unit tests, and the contract on two real Ceph sites
	@$(TOX) lint,typing,drift,unit,ceph,contract

lint typing drift unit ceph contract storms conformance drills play mutations faults kills fuzz soak deploy monitoring coverage: setup
	@$(TOX) $@

lint: ## Style, spelling, import contracts
typing: ## mypy, strict
drift: ## Are the stubs those of protos/?
unit: ## Tests that need no Ceph
ceph: ## Workers, processes and leases on two real Ceph sites
contract: ## The rows of the contract, but for those that wait for minutes
conformance: ## Every row of the contract, on two real Ceph sites
drills: ## Data moved back and forth without a pause, site loss, relocation
play: ## Let a model play against the driver, in any order and any weather
mutations: ## Does the conformance suite catch a broken driver?
faults: ## Every call under every fault: answered in time, and healed
kills: ## Worker and driver killed at every step: does the next call converge?
fuzz: ## Bad input of every kind
soak: ## 100,000 calls: does anything grow?
storms: ## A short version of these four
deploy: ## Kubernetes manifests, rendered and validated
monitoring: ## Alert rules and dashboard (needs promtool)
coverage: ## Which branches of the driver do all tests together take?

protos: setup ## Write the stubs of protos/ anew
	@scripts/protos

clean: ## Remove what set-up and tests made
	rm -rf .venv .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
