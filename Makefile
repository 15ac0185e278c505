# GNU make. `make` alone lists the targets.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Nodes of the demo, from 2 to 50; ONCE=1 ends it after the tour.
N ?= 5
ONCE ?=
# Time for each target of the fuzzer.
SECONDS ?= 60

# Cargo's profile for the benchmark, and what it measures.
BENCH_PROFILE ?= bench
export QUICK ONLY MARKDOWN BUILD PROGRAM

# The static program: for which target, and MINIMAL=1 for one that is small above all.
STATIC_TARGET ?= $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
MINIMAL ?=
MINIMAL_OPT_LEVEL ?= s

BINARY := p2p-gossip
BIN_DIR = $(DESTDIR)$(PREFIX)/bin
MAN_DIR = $(DESTDIR)$(PREFIX)/share/man/man1
BASH_DIR = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSH_DIR = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISH_DIR = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
# A unit below /usr or /usr/local is found by systemd without further ado.
UNIT_DIR = $(DESTDIR)$(PREFIX)/lib/systemd/system
# Cargo's own setting, so that a shared target directory works here too.
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

# No path of the building machine gets into the program: one build is like another, byte for byte.
CARGO_HOME ?= $(HOME)/.cargo
REMAP_PATHS = --remap-path-prefix=$(CURDIR)=/p2p-gossip --remap-path-prefix=$(CARGO_HOME)=/cargo \
	--remap-path-prefix=$(abspath $(CARGO_TARGET_DIR))=/target
STATIC_DIR = $(CARGO_TARGET_DIR)/static
STATIC = $(STATIC_DIR)/$(BINARY)$(if $(MINIMAL),-minimal)
# Where there is nothing else there is no /dev/urandom: whichever package wants random numbers asks the kernel.
STATIC_FLAGS = -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom" $(REMAP_PATHS)

# The shipped program is synchronous: none of these may be among its packages.
ASYNC_RUNTIMES := tokio|async-std|smol|mio|async-io|async-executor|hyper|futures-executor
# The mesh is a pure state machine: time and randomness are its arguments, and nothing in it blocks.
IO_AND_CLOCKS := Tcp(Stream|Listener)|UdpSocket|ToSocketAddrs|\b(std|core)::(thread|fs|process|env|io)\b|\bthread::|\bfs::|\bio::|\bprocess::|\bcrossbeam|\brustls\b|\brustix\b|Instant::now|SystemTime|fastrand::(u8|u16|u32|u64|usize|i32|i64|f32|f64|bool|shuffle|choice|seed)\(|Rng::new\(

.DEFAULT_GOAL := help
.PHONY: help build static test test-static test-hosts check reproducible deny demo sim fuzz bench bench-peers dist install install-program install-files uninstall deb test-deb notices clean tools

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

build: tools ## build the program for use: target/release/p2p-gossip
	RUSTFLAGS="$$RUSTFLAGS $(REMAP_PATHS)" $(CARGO) build --release --locked

# A target of its own keeps the flags from the build scripts and macros, which are no programs to ship. glibc is linked
# in unless STATIC_TARGET names another C library: x86_64-unknown-linux-musl, where rustup has installed that.
static: tools ## build a program that needs no file but itself: make static [MINIMAL=1] [STATIC_TARGET=…]
	$(if $(MINIMAL),CARGO_PROFILE_RELEASE_OPT_LEVEL=$(MINIMAL_OPT_LEVEL) )RUSTFLAGS='$(STATIC_FLAGS)' $(CARGO) build --release --locked --bin $(BINARY) \
		--target '$(STATIC_TARGET)' --target-dir '$(STATIC_DIR)' $(if $(MINIMAL),--no-default-features)
	cp '$(STATIC_DIR)/$(STATIC_TARGET)/release/$(BINARY)' '$(STATIC)'

test-static: static ## run the static program where there is nothing else; needs root
	P2P_GOSSIP_STATIC='$(abspath $(STATIC))' $(CARGO) test --locked --test it static_program::

# Those of network faults need root, iproute2 and nftables, and skip themselves otherwise. Most of their time the
# tests wait for nodes that wait for each other: two for each core.
RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))))
test: tools ## run all tests
	RUST_TEST_THREADS='$(RUST_TEST_THREADS)' $(CARGO) test --locked

test-hosts: tools ## run several hosts on a network of two subnets and a NAT; needs root
	$(CARGO) test --locked --test it hosts::

check: tools ## check format, lints, documentation, and what the design rules out
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --bin $(BINARY) -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	@tree=$$($(CARGO) tree --locked -e normal --target all --prefix none) || exit 1; \
	if printf '%s\n' "$$tree" | grep -E '^($(ASYNC_RUNTIMES)) '; then \
		echo 'check: an async runtime is among the packages of the program' >&2; exit 1; \
	fi
	@if grep -rnE '$(IO_AND_CLOCKS)' src/mesh; then \
		echo 'check: src/mesh must stay free of I/O, clocks and unseeded randomness' >&2; exit 1; \
	fi

# What is committed, in two places whose names differ in every way, from nothing. By another name, as make -n
# runs every recipe that has make's own in it.
OTHER_MAKE := $(MAKE)
reproducible: tools ## build the static program twice, in different places, and compare: takes a while
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && \
	for place in "$$work/a" "$$work/another/place"; do \
		mkdir -p "$$place" && git archive HEAD | tar -x -C "$$place" && \
		$(OTHER_MAKE) -C "$$place" static CARGO_TARGET_DIR="$$place/target" || exit 1; \
	done && \
	cmp "$$work/a/target/static/$(BINARY)" "$$work/another/place/target/static/$(BINARY)" && \
	sha256sum "$$work/a/target/static/$(BINARY)" && echo 'make: both builds are the same'

# By deny.toml. Known vulnerabilities come from a database that is fetched: "make deny CHECKS=advisories".
CHECKS ?= licenses bans sources
deny: tools ## check what the dependencies may be; needs cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo 'make: cargo-deny is missing: cargo install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --locked check $(CHECKS)

# The dev profile: its packages are optimised all the same, and it spares a stranger the link-time optimisation.
demo: tools ## show a local cluster: make demo [N=5] [ONCE=1]
	$(CARGO) build --locked --bin $(BINARY) --example demo
	@N='$(N)' ONCE='$(ONCE)' '$(CARGO_TARGET_DIR)/debug/examples/demo' '$(CARGO_TARGET_DIR)/debug/$(BINARY)'

# The simulator's own profile: optimised, with every check left in.
sim: tools ## explore the mesh on virtual networks: make sim SEEDS=100000 [FROM=0], SEED=7 to replay one, SCALE=1
	$(CARGO) build --locked --profile sim --example sim
	@SEEDS='$(SEEDS)' FROM='$(FROM)' SEED='$(SEED)' STORY='$(STORY)' SCALE='$(SCALE)' '$(CARGO_TARGET_DIR)/sim/examples/sim'

# Real figures need the release build and a machine with nothing else to do; another profile is for work on the benchmark.
bench: tools ## measure against what TLS alone costs: make bench [QUICK=1] [N="8 64"] [ONLY=idle,join] [MARKDOWN=1] [BUILD=1]
	@$(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench bench -- figures

bench-peers: tools ## measure beside Serf and NATS, if they are installed: make bench-peers [QUICK=1] [N="8 32"] [MARKDOWN=1]
	@$(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench bench -- peers

# Coverage needs the nightly compiler; the fuzzer's package is kept apart from the program's.
fuzz: tools ## fuzz the frame decoder and the mesh: make fuzz [SECONDS=60]
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
		echo 'make: needs the nightly toolchain (rustup toolchain install nightly) and: cargo install cargo-fuzz' >&2; exit 1; }
	for target in frames mesh; do \
		mkdir -p '$(CARGO_TARGET_DIR)'/fuzz-corpus/$$target && \
		$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir '$(abspath $(CARGO_TARGET_DIR))/fuzz' $$target \
			'$(abspath $(CARGO_TARGET_DIR))'/fuzz-corpus/$$target tests/fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -max_len=4096 || exit 1; \
	done

# A test holds what is kept there to the options.
dist: tools ## write the completions and the options of the manual page anew
	P2P_GOSSIP_WRITE_DIST=1 $(CARGO) test --locked --bin $(BINARY) cli::dist

install: build ## build, and install below $(DESTDIR)$(PREFIX): program, manual, completions, systemd unit
	@$(MAKE) --no-print-directory install-program install-files

install-program:
	install -d '$(BIN_DIR)'
	install -m 755 '$(CARGO_TARGET_DIR)/release/$(BINARY)' '$(BIN_DIR)/$(BINARY)'

install-files:
	install -d '$(MAN_DIR)' '$(BASH_DIR)' '$(ZSH_DIR)' '$(FISH_DIR)' '$(UNIT_DIR)'
	install -m 644 src/dist/$(BINARY).1 '$(MAN_DIR)/$(BINARY).1'
	install -m 644 src/dist/$(BINARY).bash '$(BASH_DIR)/$(BINARY)'
	install -m 644 src/dist/_$(BINARY) '$(ZSH_DIR)/_$(BINARY)'
	install -m 644 src/dist/$(BINARY).fish '$(FISH_DIR)/$(BINARY).fish'
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' src/dist/$(BINARY).service > '$(UNIT_DIR)/$(BINARY).service'
	chmod 644 '$(UNIT_DIR)/$(BINARY).service'

uninstall: ## remove what install put there
	rm -f '$(BIN_DIR)/$(BINARY)' '$(MAN_DIR)/$(BINARY).1' '$(BASH_DIR)/$(BINARY)' '$(ZSH_DIR)/_$(BINARY)' \
		'$(FISH_DIR)/$(BINARY).fish' '$(UNIT_DIR)/$(BINARY).service'

# The maintainer is whoever makes the package, for those who use it.
DEB_MAINTAINER ?= p2p-gossip contributors <p2p-gossip@packages.invalid>
DEB_DIR = $(CARGO_TARGET_DIR)/debian
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
deb: build ## make a Debian package: target/debian/p2p-gossip_VERSION_ARCH.deb
	rm -rf '$(DEB_DIR)/tree'
	$(MAKE) --no-print-directory install-program install-files DESTDIR='$(DEB_DIR)/tree' PREFIX=/usr \
		ZSH_DIR='$(DEB_DIR)/tree/usr/share/zsh/vendor-completions'
	CARGO='$(CARGO)' src/dist/deb/build '$(DEB_DIR)/tree' '$(DEB_MAINTAINER)' '$(VERSION)' '$(DEB_DIR)'

test-deb: deb ## check the package, and install, run, upgrade and purge it in a directory; needs root and lintian
	tests/packaging/deb/run '$(DEB_DIR)/p2p-gossip_$(VERSION)_'*.deb

notices: tools ## print the packages in the program, their licences, and the notices that those ask to pass on
	@CARGO='$(CARGO)' src/dist/notices

clean: ## remove what was built
	$(CARGO) clean

tools:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
		echo 'make: cargo is missing: install Rust 1.88 or later, see https://rustup.rs' >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null 2>&1 || { \
		echo 'make: a C compiler is missing (the TLS library needs it): install gcc or clang' >&2; exit 1; }
