# The commands of the project; each installs what it needs and says what it does. README.md explains them.
SHELL := /bin/bash
.PHONY: demo test bench crash verify fmt

# The main job on the real position reports, in an embedded cluster, with something to look at at the end.
demo:
	@scripts/setup
	@scripts/demo

# Everything that must hold.
test:
	@scripts/setup
	@scripts/test

# Throughput, memory and latency, as a table and as JSON (target/bench/results.json).
bench:
	@scripts/setup
	@scripts/bench $(ARGS)

# Breaks something under running jobs, again and again (RUNS=126), compares their results, and ends with a table.
crash:
	@scripts/setup
	@scripts/crash

# What a change must pass before review: format, clippy, tidy, tests, licences and advisories.
verify:
	@scripts/setup
	@scripts/verify

fmt:
	cargo fmt --all
