# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs. The commands themselves stand in tox.ini.

.DEFAULT_GOAL := help
.PHONY: setup $(or $(MAKECMDGOALS),help)

ifneq ($(and $(RELEASE),$(filter command%,$(origin RELEASE))),)

# any target, with the Ceph and the Python of that Debian release
$(or $(MAKECMDGOALS),help):
	@scripts/in-release $(RELEASE) make --no-print-directory $@ $(filter-out RELEASE=%,$(MAKEOVERRIDES))

else

TOX := .venv/bin/tox run --quiet -e

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian packages) and make .venv
	@scripts/setup

demo: setup ## Watch a volume replicate, fail over and survive, on two real Ceph sites
	@scripts/prometheus
	@.venv/bin/python -m demo

test: setup ## Run every tier: lint, typing, unit tests, manifests, alerts, and the contract on real sites
	@.venv/bin/python -m tests.tiers $(if $(ALSO),--also $(ALSO))

lint typing drift unit ceph contract chaos-smoke conformance drills play mutations kills fuzz soak \
bench docs deploy container monitoring coverage dist: setup
	@$(TOX) $@

faults: setup ## Every call under every fault: answered in time, and healed (needs root)
	@$(TOX) faults,isolation

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
kills: ## Driver killed, crashed, frozen at every step: does the next call converge?
fuzz: ## Bad input of every kind
soak: ## 100,000 calls: does anything grow?
chaos-smoke: ## A short version of faults, kills, fuzz and soak
bench: ## How fast is it, beside bare librbd?
docs: ## The site of the documents (build/site), and every command in them
deploy: ## Kubernetes manifests, rendered and validated
container: ## The image, started as a container on two real Ceph sites (needs root)
monitoring: ## Alert rules and dashboard
coverage: ## Which branches of the driver do all tests together take?

dist: ## Build wheel and sdist, and check them

image: ## Build the container image, with docker, podman or buildah
	@scripts/image

lock: ## Take the newest version of every dependency into requirements/
	@scripts/lock

protos: setup ## Write the stubs of protos/ anew
	@scripts/protos

clean: ## Remove what set-up and tests made
	rm -rf demo.png .venv .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist .coverage .coverage.*

endif
