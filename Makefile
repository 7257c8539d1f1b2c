# `make lab` shows what lvsprov does; `make test` proves it. Both install what they need (scripts/programs lists it).

LAB ?= playbooks/dr-two-networks.yaml

# Tests see the base system and the programs of scripts/programs, and nothing that happens to be installed here.
export LVSPROV_BARE_PATH := $(CURDIR)/target/bare-path
BARE = scripts/bare-path $(LVSPROV_BARE_PATH)
TEST = cargo test --locked --config 'target."cfg(all())".runner = ["$(CURDIR)/scripts/runner", "$(1)"]'

.PHONY: lab test quick lint fuzz bench bench-bulk

lab: # a cluster from bare hosts, with real traffic through a real kernel
	scripts/need lab
	@echo "building lvsprov for the lab: one to two minutes on 2 cores, the first time"
	cargo build --locked --profile lab
	@echo "the lab: $(LAB), from bare hosts to answered requests and back; half a minute to two"
	cargo run --locked --quiet --profile lab -- lab run $(LAB)

test: # everything; the last part boots a virtual machine
	scripts/need test
	$(MAKE) lint
	$(BARE)
	$(call TEST,root) --no-fail-fast

quick: # what needs neither root nor a virtual machine; under two minutes
	scripts/need test
	$(BARE)
	$(call TEST,user) --lib --test check --test large --test cli --test plans --test docs --test import

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
