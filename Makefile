# `make lab` shows what lvsprov does; `make test` proves it. Both install what they need (see scripts/need).

LAB ?= playbooks/dr-two-networks.yaml

.PHONY: lab test quick lint fuzz bench bench-bulk

lab: # a cluster from bare hosts, with real traffic through a real kernel
	scripts/need lab
	cargo run --quiet -- lab run $(LAB)

test: # everything; the last part boots a virtual machine
	scripts/need test
	$(MAKE) lint
	cargo test --no-fail-fast

quick: # what needs neither root nor a virtual machine; under two minutes
	cargo test --lib --test check --test large --test cli --test plans --test docs --test import

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# One fuzz target, or all one after the other, for SECONDS each: make fuzz FUZZ=fuzz_frame SECONDS=3600
FUZZ ?= fuzz_
SECONDS ?= 60

fuzz: # says inputs tried, panics found and the slowest input; a panic is repeated by BOLERO_RANDOM_SEED
	LVSPROV_FUZZ_SECONDS=$(SECONDS) cargo test --lib -- --nocapture --test-threads=1 $(FUZZ)

bench: # over SSH to 5, 20 and 50 namespace hosts, beside plain ssh; needs root
	scripts/need test
	cargo bench --bench ssh

bench-bulk: # 10,000 real servers beside ipvsadm and a bare netlink sender, in the lab's virtual machine
	scripts/need test
	cargo bench --bench bulk
