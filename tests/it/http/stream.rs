//! Tests of `/events`: it sends the objects of stdout, and a reconnecting reader gets the missed events.

use serde_json::Value;

use super::client::{Events, page_of, plain, with_page};
use crate::support::Cluster;

#[test]
fn event_stream_has_the_objects_of_stdout() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let mut events = Events::open(page, "/events?recent=1", "").unwrap();
    let mut streamed = vec![events.next_of("listening")];
    let b = cluster.start(plain("b").with_connect(cluster.addr(node)));
    streamed.push(events.next_of("up"));
    streamed.push(events.next_of("ping"));
    cluster.kill(b);
    streamed.push(events.next_of("down"));
    let c = cluster.start(plain("c").with_connect(cluster.addr(node)));
    streamed.push(events.next_of("up"));
    cluster.terminate(c);
    streamed.push(events.next_of("left"));
    cluster.terminate(node);
    streamed.push(events.next_of("stopped"));
    assert_eq!(events.next(), None);

    cluster.check(&[node], |history| {
        let shown: Vec<&Value> =
            history.records().iter().filter(|r| r.member == node).map(|record| &record.json).collect();
        streamed
            .iter()
            .find(|event| !shown.contains(event))
            .map(|event| format!("stdout never showed {event}"))
    });
}

#[test]
fn reconnecting_reader_gets_the_events_it_missed() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let mut events = Events::open(page, "/events?recent=9", "").unwrap();
    events.next_of("listening");
    let last = format!("Last-Event-ID: {}\r\n", events.last_id);
    drop(events);
    let b = cluster.start(plain("b").with_connect(cluster.addr(node)));
    cluster.wait_full_mesh(&[node, b]);
    cluster.kill(b);
    cluster.wait_down(&[node], cluster.id(b), p2p_gossip::DownReason::Closed, 0);

    let mut back = Events::open(page, "/events?recent=0", &last).unwrap();
    assert_eq!(back.next().unwrap()["event"], "up");
    assert_eq!(back.next().unwrap()["event"], "down");
    // An event id of another process: the stream starts with the oldest event.
    let mut foreign = Events::open(page, "/events", "Last-Event-ID: 1-99\r\n").unwrap();
    assert_eq!(foreign.next().unwrap()["event"], "listening");
    // Only the latest event, then new ones.
    let mut latest = Events::open(page, "/events?recent=1", "").unwrap();
    assert_eq!(latest.next().unwrap()["event"], "down");
    cluster.start(plain("c").with_connect(cluster.addr(node)));
    for events in [&mut back, &mut foreign, &mut latest] {
        assert_eq!(events.next_of("up")["name"], if events.last_id.ends_with("-2") { "b" } else { "c" });
    }
}
