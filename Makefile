# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
# How many instances come and go in the storm of make e2e. Empty: 200.
STORM    ?=
# The release of Debian that test, e2e and test-instance run on, as debootstrap calls it (trixie, sid). Empty: this
# machine's own, and nothing is noted in docs/compatibility.md.
RELEASE  ?=
# Further flags of go test.
TESTFLAGS ?=

# The release is static: the pure-Go SQLite driver needs no C. Only the race detector of the tests does.
export CGO_ENABLED = 0

.PHONY: help
help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps-demo build ## Play the main job with a real sshd, from boot to revocation (installs OpenSSH if it is missing)
	bin/muster demo

.PHONY: dev
dev: build ## Run Muster on SQLite beside a small cloud in one process, until Ctrl-C
	bin/muster dev

ifeq ($(RELEASE),)

.PHONY: test
test: deps-test ## Run all tests, against real databases, OpenSSH and Keystone (installs what is missing)
	CGO_ENABLED=1 MUSTER_TEST_REQUIRE=1 $(GO) test -race -timeout 60m $(TESTFLAGS) ./...

.PHONY: e2e
e2e: deps-e2e ## Play the scenarios of test/e2e in a real OpenStack, put up on loopback for it (installs what is missing)
	MUSTER_E2E=1 MUSTER_E2E_STORM=$(STORM) MUSTER_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 120m $(TESTFLAGS) -run '/openstack' ./test/e2e

.PHONY: test-instance
test-instance: deps-test ## Run the agent in Debian machines, from cloud-init to uninstall (installs what is missing)
	MUSTER_TEST_REQUIRE=1 $(GO) test -count=1 -v -timeout 60m $(TESTFLAGS) ./test/machine ./test/instance

else

# The same on another release, noted in docs/compatibility.md.
.PHONY: test e2e test-instance
test e2e test-instance: deps-release
	$(GO) run ./test/matrix -target $@ -release $(RELEASE) STORM=$(STORM)

endif

.PHONY: unit
unit: ## Run the fast tests, without services and installing nothing
	$(GO) test -short ./...

.PHONY: galera
galera: deps-galera ## Run the tests of the records on a Galera of three nodes, with one writer and with two (installs it if it is missing)
	$(GO) test -count=1 -timeout 60m -tags galera $(TESTFLAGS) ./internal/store

.PHONY: openstack
openstack: deps-e2e ## Put that OpenStack up until Ctrl-C, and write to openstack.json how to reach it
	$(GO) run ./test/openstack openstack.json

.PHONY: bench
bench: deps-test ## Measure what docs/performance.md reports (BENCH_FLAGS="-rows usercert" for some rows)
	$(GO) run ./test/bench $(BENCH_FLAGS)

.PHONY: lint
lint: ## Check formatting, vet, staticcheck, module tidiness and known vulnerabilities
	scripts/lint.sh

.PHONY: build
build: ## Build static binaries into bin/, and the agent for each architecture into bin/agent/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...
	@scripts/agent-build.sh bin/agent '$(LDFLAGS)'

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: deps-demo deps-test deps-e2e deps-release deps-galera
deps-demo:
	@scripts/services-install.sh demo
deps-test:
	@scripts/services-install.sh test
deps-e2e:
	@scripts/services-install.sh e2e
deps-release:
	@scripts/services-install.sh release
deps-galera:
	@scripts/services-install.sh galera
