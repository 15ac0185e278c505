#!/bin/sh
# Fails when the source breaks a rule of the design that the compiler does not know.
# Called by `make check`. Needs cargo, and the usual tools of a POSIX system.
set -eu
cd "$(dirname "$0")/../.."

fail() {
    printf 'check: %s\n' "$*" >&2
    exit 1
}

# The shipped program is synchronous: none of these packages may be linked into it.
async_runtimes='tokio|async-std|smol|mio|async-io|async-executor|hyper|futures-executor'
tree=$("${CARGO:-cargo}" tree --locked -e normal --target all --prefix none)
if printf '%s\n' "$tree" | grep -E "^($async_runtimes) "; then
    fail 'an async runtime is among the packages of the program'
fi

# The mesh is a pure state machine: time and randomness are its arguments, and nothing in it blocks.
impure='Tcp(Stream|Listener)|UdpSocket|ToSocketAddrs|\b(std|core)::(thread|fs|process|env|io)\b'
impure="$impure"'|\bthread::|\bfs::|\bprocess::|\bcrossbeam|\brustls\b|\brustix\b|Instant::now|SystemTime'
impure="$impure"'|fastrand::(u8|u16|u32|u64|usize|i32|i64|f32|f64|bool|shuffle|choice|seed)\(|Rng::new\('
if grep -rnE "$impure" src/mesh; then
    fail 'src/mesh must stay free of I/O, clocks and unseeded randomness'
fi
# The same holds for a connection above TLS and for the order of inputs and outputs: the simulator runs them.
if grep -nE "$impure" src/session/protocol.rs src/session/protocol/received.rs src/session/circuits.rs \
    src/session/heartbeats.rs src/session/rate_limit.rs src/session/key_rates.rs src/session/session_limits.rs \
    src/runtime/driver.rs; then
    fail 'the protocol of a session and the driver must stay free of I/O, clocks and unseeded randomness'
fi

# The errors of these packages quote what they read: a key file, a certificate, a peer's message, an argument. Only the
# files listed here may name such an error; they convert it into one of ours without text. (http/views.rs and
# commands/mod.rs only write JSON.)
foreign='(rustls|rcgen|pem|toml|bincode|httparse|argh|serde_json)'
error='([A-Za-z]*Error|EarlyExit)'
for file in $(find src -name '*.rs' | sort); do
    case ${file#src/} in
    trust/tls_error.rs | trust/verifier.rs | store/known_peers.rs | wire/message.rs | wire/numbered.rs | wire/error.rs) continue ;;
    bin/p2p-gossip/cli/normalize.rs | bin/p2p-gossip/http/request.rs) continue ;;
    bin/p2p-gossip/http/views.rs | bin/p2p-gossip/commands/mod.rs) continue ;;
    esac
    code=$(sed '/^mod tests {/,$d; /^ *\/\//d' "$file" | tr '\n' ' ')
    if printf '%s' "$code" | grep -qE "use $foreign::[^;]*\b$error\b|\b$foreign(::[a-z_]+)*::$error\b"; then
        fail "$file names an error of another package, which may quote a secret; see tests/checks/design.sh"
    fi
done

# `make test` names the test programs, because it builds the simulator's in another way.
for name in $(sed -n '/^\[\[test\]\]/{n;s/^name = "\(.*\)"/\1/p}' Cargo.toml); do
    grep -q -- "--test $name\b" Makefile || fail "make test does not run the test program $name of Cargo.toml"
done

# People who write another implementation read the guide.
wire=$(sed -n '/^## The wire/,/^## State/p' src/guide/architecture.md)
for kind in $(sed -n '/^pub enum Message {/,/^}/s/^    \([A-Z][A-Za-z]*\).*/\1/p' src/wire/message.rs); do
    printf '%s' "$wire" | grep -q "^| [^|]*\`$kind\`" ||
        fail "the table of messages in src/guide/architecture.md lacks $kind"
done
for number in $(sed -n 's/^pub const [A-Z]*_CAPABILITY: u32 = \([0-9]*\);/\1/p' src/wire/*.rs); do
    grep -q "^| $number |" src/guide/stability.md ||
        fail "the table of capabilities in src/guide/stability.md lacks number $number"
done

tests/checks/import_circles.sh
