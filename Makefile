# For GNU make. `make` without a target lists the targets.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Number of nodes in the demo, from 2 to 50. ONCE=1 ends the demo after its tour.
N ?= 5
ONCE ?=
# Seconds for each target of the fuzzer.
SECONDS ?= 60

# Cargo's profile for the benchmark, and the options that the benchmark reads.
BENCH_PROFILE ?= bench
export QUICK ONLY MARKDOWN JSON BUILD PROGRAM LONG BESIDE JOBS

# The static program: Cargo's profile, and Rust's name of the target. Without a name the program is built in the
# directory of all other builds, where it takes the place of the usual one, and shares their packages.
STATIC_PROFILE ?= release
STATIC_TARGET ?= $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

BINARY := p2p-gossip
BIN_DIR = $(DESTDIR)$(PREFIX)/bin
MAN_DIR = $(DESTDIR)$(PREFIX)/share/man/man1
BASH_DIR = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSH_DIR = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISH_DIR = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
# systemd searches this directory below /usr and /usr/local.
UNIT_DIR = $(DESTDIR)$(PREFIX)/lib/systemd/system
# The variable is cargo's own, so a target directory that the user shares between projects works here too.
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
# The directory of each profile's results. A user who builds for another target sets CARGO_BUILD_TARGET.
BUILT = $(CARGO_TARGET_DIR)$(addprefix /,$(CARGO_BUILD_TARGET))

# Keeps the paths of this machine out of the program, so that every build gives the same bytes.
CARGO_HOME ?= $(HOME)/.cargo
REMAP_PATHS = --remap-path-prefix=$(CURDIR)=/p2p-gossip --remap-path-prefix=$(CARGO_HOME)=/cargo \
	--remap-path-prefix=$(abspath $(CARGO_TARGET_DIR))=/target
STATIC_DIR = $(CARGO_TARGET_DIR)/static
STATIC = $(STATIC_DIR)/$(BINARY)
STATIC_BUILT = $(or $(addprefix $(CARGO_TARGET_DIR)/,$(STATIC_TARGET)),$(BUILT))

.DEFAULT_GOAL := help
.PHONY: help build static test test-threads test-static test-hosts check reproducible deny demo sim fuzz fuzz-check bench bench-peers bench-faults dist install install-program install-files uninstall deb test-deb notices clean tools

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

build: tools ## build the program for use: target/release/p2p-gossip
	RUSTFLAGS="$$RUSTFLAGS $(REMAP_PATHS)" $(CARGO) build --release --locked

# How the C library is linked matters to the last step only. It is glibc, unless STATIC_TARGET names another one:
# x86_64-unknown-linux-musl, if rustup has installed it. A development build may name the paths of this machine.
static: tools ## build a program that needs no other file: make static [STATIC_TARGET=…]
	RUSTFLAGS="$$RUSTFLAGS $(if $(filter dev,$(STATIC_PROFILE)),,$(REMAP_PATHS))" $(CARGO) rustc --locked \
		--profile $(STATIC_PROFILE) --bin $(BINARY) $(addprefix --target ,$(STATIC_TARGET)) \
		-- -C target-feature=+crt-static
	install -D '$(STATIC_BUILT)/$(STATIC_PROFILE:dev=debug)/$(BINARY)' '$(STATIC)'

test-static: static ## run the static program in directories without other files; needs root
	P2P_GOSSIP_STATIC='$(abspath $(STATIC))' $(CARGO) test --locked --test it static_program::

# No examples: `make check` compiles them. Tests of network faults need root, iproute2 and nftables, and skip themselves
# otherwise. Tests spend most of their time waiting for nodes, so three run on each core. The simulator's tests compute:
# optimised they take a seventh of the time, and no package is built again. Building all tests that way takes longer.
RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))))
OPTIMISED = CARGO_PROFILE_DEV_OPT_LEVEL=1
test: tools ## run all tests
	RUST_TEST_THREADS='$(RUST_TEST_THREADS)' $(CARGO) test --locked --lib --bins --test it --test wire_memory
	$(OPTIMISED) $(CARGO) test --locked --test simulation
	$(CARGO) test --locked --doc
	$(CARGO) run --locked --quiet --example threads

# CHECK is a part of the names of the checks to run.
test-threads: tools ## check what threads share in every order in which they may run; part of make test: make test-threads [CHECK=wakes]
	$(CARGO) run --locked --quiet --example threads '$(CHECK)'

test-hosts: tools ## run several hosts on a network of two subnets and a NAT; needs root
	$(CARGO) test --locked --test it hosts::

check: tools ## check format, lints, documentation and the rules of the design
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	@CARGO='$(CARGO)' tests/checks/design.sh

# By another name, because make -n runs each recipe that contains $(MAKE).
OTHER_MAKE := $(MAKE)
reproducible: tools ## build the static program twice, in different directories, and compare; takes minutes
	@MAKE='$(OTHER_MAKE)' tests/checks/reproducible.sh

# The rules are in deny.toml. "make deny CHECKS=advisories" fetches a database of known vulnerabilities.
CHECKS ?= licenses bans sources
deny: tools ## check licences and sources of the dependencies; needs cargo-deny
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo 'make: cargo-deny is missing: cargo install --locked cargo-deny' >&2; exit 1; }
	$(CARGO) deny --locked check $(CHECKS)

# The dev profile builds faster, and TLS is optimised in it all the same.
demo: tools ## show a local cluster: make demo [N=5] [ONCE=1]
	$(CARGO) build --locked --bin $(BINARY) --example demo
	@N='$(N)' ONCE='$(ONCE)' '$(BUILT)/debug/examples/demo' '$(BUILT)/debug/$(BINARY)'

# The profile sim is optimised and keeps every assertion.
# Verdicts are judged by what nodes tell, so their own assertions, which take half of the time, are left out.
NO_ASSERTIONS = --config profile.sim.package.$(BINARY).debug-assertions=false
sim: tools ## explore the mesh on virtual networks: make sim SEEDS=100000 [FROM=0], SEED=7 to replay one, SCALE=1, VERDICTS=1
	$(CARGO) build --locked --profile sim --example sim $(if $(VERDICTS),$(NO_ASSERTIONS))
	@SEEDS='$(SEEDS)' FROM='$(FROM)' SEED='$(SEED)' STORY='$(STORY)' SCALE='$(SCALE)' VERDICTS='$(VERDICTS)' LIAR='$(LIAR)' '$(BUILT)/sim/examples/sim'

# Real figures need the release build and an idle machine. Other profiles are for work on the benchmark.
bench: tools ## measure, beside the cost of TLS alone: make bench [QUICK=1] [N="8 64"] [ONLY=idle,join] [MARKDOWN=1] [BUILD=1]
	@$(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench bench -- figures

bench-peers: tools ## measure beside Serf and NATS, if they are installed: make bench-peers [QUICK=1] [N="8 32"] [MARKDOWN=1]
	@$(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench bench -- peers

# The libraries have packages of their own, which nothing else builds. Without a network they are left out.
comma := ,
LIBRARIES = $(abspath $(CARGO_TARGET_DIR))/libraries
bench-faults: tools ## measure faults beside Serf, NATS, foca and chitchat; needs root: make bench-faults [QUICK=1] [ONLY=T2,T4] [LONG=1] [JOBS=8] [BESIDE=serf,foca]
	@for library in $(if $(BESIDE),$(filter foca chitchat,$(subst $(comma), ,$(BESIDE))),foca chitchat); do \
		$(CARGO) build --release --locked --target-dir '$(LIBRARIES)' --manifest-path tests/bench/$$library/Cargo.toml \
			|| echo "make: $$library cannot be built and is left out" >&2; done
	@LIBRARIES='$(LIBRARIES)/release' $(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench bench -- faults

fuzz: tools ## fuzz the decoders and the mesh: make fuzz [SECONDS=60]
	@CARGO='$(CARGO)' tests/fuzz/run '$(SECONDS)'

fuzz-check: tools ## compile the fuzz targets with the stable compiler; needs a C++ compiler
	$(CARGO) check --locked --manifest-path tests/fuzz/Cargo.toml

# A test fails when these files differ from the options and events of the code.
dist: tools ## generate the completions and the reference in the manual page
	P2P_GOSSIP_WRITE_DIST=1 $(CARGO) test --locked --bin $(BINARY) cli::dist

install: build ## build, and install below $(DESTDIR)$(PREFIX): program, manual, completions, systemd unit
	@$(MAKE) --no-print-directory install-program install-files

install-program:
	install -d '$(BIN_DIR)'
	install -m 755 $(if $(DEB_PROGRAM),-s) '$(or $(DEB_PROGRAM),$(BUILT)/release/$(BINARY))' '$(BIN_DIR)/$(BINARY)'

install-files:
	install -d '$(MAN_DIR)' '$(BASH_DIR)' '$(ZSH_DIR)' '$(FISH_DIR)' '$(UNIT_DIR)'
	install -m 644 src/dist/$(BINARY).1 '$(MAN_DIR)/$(BINARY).1'
	install -m 644 src/dist/$(BINARY).bash '$(BASH_DIR)/$(BINARY)'
	install -m 644 src/dist/_$(BINARY) '$(ZSH_DIR)/_$(BINARY)'
	install -m 644 src/dist/$(BINARY).fish '$(FISH_DIR)/$(BINARY).fish'
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' src/dist/$(BINARY).service > '$(UNIT_DIR)/$(BINARY).service'
	chmod 644 '$(UNIT_DIR)/$(BINARY).service'

uninstall: ## remove the installed files
	rm -f '$(BIN_DIR)/$(BINARY)' '$(MAN_DIR)/$(BINARY).1' '$(BASH_DIR)/$(BINARY)' '$(ZSH_DIR)/_$(BINARY)' \
		'$(FISH_DIR)/$(BINARY).fish' '$(UNIT_DIR)/$(BINARY).service'

# For users of the package its maintainer is the person who built it: set this to a name and an address.
DEB_MAINTAINER ?= p2p-gossip contributors <p2p-gossip@packages.invalid>
# A program that is built already, for tests of the package; without it `make deb` builds one for use.
DEB_PROGRAM ?=
DEB_DIR = $(CARGO_TARGET_DIR)/debian
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
deb: $(if $(DEB_PROGRAM),,build) ## make a Debian package: target/debian/p2p-gossip_VERSION_ARCH.deb
	rm -rf '$(DEB_DIR)/tree'
	$(MAKE) --no-print-directory install-program install-files DESTDIR='$(DEB_DIR)/tree' PREFIX=/usr \
		ZSH_DIR='$(DEB_DIR)/tree/usr/share/zsh/vendor-completions'
	CARGO='$(CARGO)' src/dist/deb/build '$(DEB_DIR)/tree' '$(DEB_MAINTAINER)' '$(VERSION)' '$(DEB_DIR)'

test-deb: deb ## check the package, and install, run, upgrade and purge it in a directory; needs root and lintian
	tests/packaging/deb/run '$(DEB_DIR)/p2p-gossip_$(VERSION)_'*.deb

notices: tools ## print the linked packages, their licences, and the notices to pass on
	@CARGO='$(CARGO)' src/dist/notices

clean: ## remove all build results
	$(CARGO) clean

tools:
	@CARGO='$(CARGO)' CC='$(CC)' tests/checks/build_tools.sh
