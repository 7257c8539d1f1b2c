# `make lab` shows what lvsprov does; `make test` proves it. Both install what they need (scripts/programs lists it).

LAB ?= playbooks/dr-two-networks.yaml

# Tests see the base system and the programs of scripts/programs, and nothing that happens to be installed here.
export LVSPROV_BARE_PATH := $(CURDIR)/target/bare-path
BARE = scripts/bare-path $(LVSPROV_BARE_PATH)
TEST = cargo test --locked --config 'target."cfg(all())".runner = ["$(CURDIR)/scripts/runner", "$(1)"]'

# Building from nothing, as on a fresh machine, is a tenth faster without what the next build could use.
export CARGO_INCREMENTAL ?= 0

.PHONY: lab test quick kernels lint fuzz bench bench-bulk test-build test-lib test-pure test-host test-vm

lab: # a cluster from bare hosts, with real traffic through a real kernel
	scripts/need lab
	@echo "building lvsprov for the lab: one to two minutes on 2 cores, the first time"
	cargo build --locked
	@echo "the lab: $(LAB), from bare hosts to answered requests and back; half a minute to two"
	cargo run --locked --quiet -- lab run $(LAB)

test: # everything; the last part boots virtual machines; at the end stands how long each part took
	scripts/need test
	$(BARE)
	scripts/booted-root target/booted-root
	scripts/in-turn lint test-build test-lib test-pure test-host test-vm

quick: # what needs neither root nor a virtual machine
	scripts/need test
	$(BARE)
	LVSPROV_QUICK=1 $(call TEST,user) --lib --test pure

# Parts of `make test`, for when the rest has run: make test-vm, or one group of cases: make test-vm CASES=live_changes
CASES ?=

test-build:
	cargo test --locked --no-run
test-lib:
	$(call TEST,root) --lib
test-pure test-host test-vm: test-%:
	$(call TEST,root) --test $* -- $(CASES)

kernels: # the virtual machines' part on Linux 5.10, 6.1 and 6.12, from Debian 11, 12 and 13; takes three times as long
	scripts/need test
	$(BARE)
	scripts/on-kernels bullseye bookworm trixie

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --no-deps --document-private-items
	scripts/deny

# One fuzz target, or all one after the other, for SECONDS each: make fuzz FUZZ=fuzz_frame SECONDS=3600
FUZZ ?= fuzz_
SECONDS ?= 60

fuzz: # says inputs tried, panics found and the slowest input; a panic is repeated by BOLERO_RANDOM_SEED
	LVSPROV_FUZZ_SECONDS=$(SECONDS) cargo test --locked --lib -- --nocapture --test-threads=1 $(FUZZ)

bench: # over SSH to 5, 20 and 50 namespace hosts, beside plain ssh; needs root
	scripts/need test
	cargo bench --locked --bench ssh

bench-bulk: # 10,000 real servers beside ipvsadm and a bare netlink sender, in the lab's virtual machine
	scripts/need test
	cargo bench --locked --bench bulk
