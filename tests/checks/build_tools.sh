#!/bin/sh
# Fails, with what to install, where a tool that every build needs is missing. Called by the Makefile.
set -eu
command -v "${CARGO:-cargo}" >/dev/null 2>&1 || {
    echo 'make: cargo is missing: install Rust 1.88 or later, see https://rustup.rs' >&2
    exit 1
}
command -v "${CC:-cc}" >/dev/null 2>&1 || {
    echo 'make: a C compiler is missing (the TLS library needs it): install gcc or clang' >&2
    exit 1
}
