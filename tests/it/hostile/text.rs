//! Text from peers that could control a terminal or forge log lines.

use std::sync::mpsc;

use p2p_gossip::internals::text::is_unsafe;
use p2p_gossip::internals::wire::Message;

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, hello};
use crate::support::process::{Output, Process, Spec};
use crate::support::{DEADLINE, unique_addr};

const NAME: &str = "\u{1b}[2J\u{202e}\n12:00:00Z  up";
const TEXT: &str = "\r\u{1b}]0;pwned\u{7}\u{2066}\u{2028}x\n{\"event\":\"left\"}";

#[test]
fn control_characters_in_names_and_pings_are_escaped() {
    let at = unique_addr();
    let (sender, lines) = mpsc::channel();
    let spec = Spec::named("victim").with_bind(at).with_text_output();
    let sink = move |output| drop(sender.send(output));
    let _victim = Process::spawn(env!("CARGO_BIN_EXE_p2p-gossip").as_ref(), &spec, sink).unwrap();
    let mut raw = None;
    // stdout and the log are two streams, so the order is not fixed.
    let (mut shown, mut shown_in_log) = (false, false);
    while !(shown && shown_in_log) {
        let line = match lines.recv_timeout(DEADLINE).expect("the ping is shown") {
            Output::Garbage { line, .. } => line,
            Output::Log(line) => {
                shown_in_log |= line.contains("u{202e}");
                line
            }
            _ => continue,
        };
        assert!(!line.chars().any(is_unsafe), "{line:?}");
        if line.contains("listening") {
            let mut peer = Raw::dial(at, &Credentials::new());
            peer.exchange_hello(hello(NAME));
            peer.send(&Message::Ping { seq: 4711, text: TEXT.to_owned() }).unwrap();
            raw = Some(peer);
        }
        if line.contains("#4711") {
            assert!(line.contains("\\u{1b}]0;pwned\\u{7}\\u{2066}\\u{2028}x\\n"), "{line}");
            assert!(line.contains("\\u{1b}[2J\\u{202e}\\n12:00:00Z"), "{line}");
            shown = true;
        }
    }
    drop(raw);
}

#[test]
fn json_output_contains_the_text_as_it_was_sent() {
    let attack = Attack::start();
    let mut raw = Raw::dial(attack.addr(), &Credentials::new());
    raw.exchange_hello(hello(NAME));
    raw.send(&Message::Ping { seq: 1, text: TEXT.to_owned() }).unwrap();
    attack.cluster.wait_for("the ping with its text", &[attack.victim], |history| {
        let is_it = |r: &_| {
            let record: &crate::support::history::Record = r;
            record.json["text"] == TEXT && record.json["name"] == NAME
        };
        history.records().iter().any(is_it).then_some(())
    });
    drop(raw);
    attack.end();
}
