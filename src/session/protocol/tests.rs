//! Each rule of the protocol, with a peer that the test plays.

use std::time::Duration;

use super::*;
use crate::limits::{
    ACQUAINTED_AFTER, CIRCUIT_BYTES_BURST, CIRCUIT_BYTES_BURST_OF_STRANGER,
    CIRCUIT_BYTES_PER_SECOND_OF_STRANGER, CIRCUIT_MESSAGE_BYTES_MIN,
};
use crate::wire::Hello;

/// One end of a connection to a peer that the test plays.
struct End {
    protocol: Protocol,
    now: Instant,
    sent: FrameReader,
    /// Whether the connection takes bytes, and whether our direction is closed.
    is_blocked: bool,
    is_closed: bool,
}

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn exchange() -> Arc<HelloExchange> {
    Arc::new(HelloExchange::new(Hello::plain(), Vec::new()))
}

fn ping(seq: u64) -> Message {
    Message::Ping { seq, text: String::new() }
}

impl End {
    /// Node 5 after the TLS handshake with this peer.
    fn new(peer: u8, role: Role) -> Self {
        let now = crate::test_now();
        let session = if role == Role::Dialler { SessionId::dialled(1) } else { SessionId::accepted(1) };
        let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
        let ends = Ends { session, own: id(5), peer: id(peer), remote, local: None };
        let vitals = Vitals { digest: 77, interval_ms: 1000 };
        let by = now + Duration::from_secs(10);
        let protocol = Protocol::new(now, ends, role, exchange(), [0; 32], vitals, by);
        let mut sent = FrameReader::new();
        sent.after_hello();
        Self { protocol, now, sent, is_blocked: false, is_closed: false }
    }

    /// The same, with a session that is up.
    fn up(peer: u8) -> Self {
        let mut end = Self::new(peer, Role::Acceptor);
        let events = end.receive(&[Message::Hello(Hello::plain())]);
        assert!(matches!(events[..], [SessionEvent::Up(_)]), "{events:?}");
        assert!(matches!(end.sent()[..], [Message::Hello(_)]));
        end
    }

    /// One round, as a driver does it.
    fn round(&mut self) -> Vec<SessionEvent> {
        while self.protocol.handle_circuits() {}
        self.protocol.handle_timeout(self.now);
        let mut events = Vec::new();
        loop {
            while let Some(transmit) = self.protocol.poll_transmit() {
                assert!(!self.is_closed, "{transmit:?} after the end");
                match transmit {
                    Transmit::Frame(frame) => self.sent.buffer().extend_from_slice(&frame),
                    Transmit::Close => self.is_closed = true,
                }
            }
            self.protocol.handle_transmitted(self.now, !self.is_blocked);
            match self.protocol.poll_event(self.now) {
                Some(event) => events.push(event),
                None if self.protocol.has_transmits() => {}
                None => return events,
            }
        }
    }

    fn receive(&mut self, messages: &[Message]) -> Vec<SessionEvent> {
        for message in messages {
            self.protocol.handle_bytes(self.now, &wire::encode(message).unwrap());
        }
        self.round()
    }

    fn request(&mut self, request: Request) -> Vec<SessionEvent> {
        self.protocol.handle_request(self.now, request);
        self.round()
    }

    fn wait(&mut self, time: Duration) -> Vec<SessionEvent> {
        self.now += time;
        self.round()
    }

    /// The messages sent since the last call.
    fn sent(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.sent.next_message().unwrap()).collect()
    }
}

fn downs(events: &[SessionEvent]) -> Vec<DisconnectReason> {
    let down = |event: &SessionEvent| match event {
        SessionEvent::Down(reason) => Some(*reason),
        _ => None,
    };
    events.iter().filter_map(down).collect()
}

#[test]
fn acceptor_says_nothing_before_a_valid_hello() {
    let mut end = End::new(7, Role::Acceptor);
    assert!(end.round().is_empty() && end.sent().is_empty());
    let foreign = Hello { proofs: vec![[1; 32]], ..Hello::plain() };
    assert!(end.receive(&[Message::Hello(foreign)]).is_empty());
    assert_eq!(end.sent(), [Message::Bye(ByeReason::NetworkKeyUnknown)]);
    assert!(end.is_closed && !end.protocol.is_closed(), "the peer may read the reason");
    end.wait(LINGER);
    assert!(end.protocol.is_closed() && end.protocol.failure().is_some());
}

#[test]
fn goodbye_before_the_hello_waits_for_the_session() {
    let mut end = End::new(7, Role::Dialler);
    end.round();
    assert!(matches!(end.sent()[..], [Message::Hello(_)]));
    assert!(end.request(Request::Bye(ByeReason::Duplicate)).is_empty());
    let events = end.receive(&[Message::Hello(Hello::plain()), ping(1)]);
    assert!(matches!(events[..], [SessionEvent::Up(_), SessionEvent::Received { .. }]), "{events:?}");
    assert_eq!(end.sent(), [Message::Bye(ByeReason::Duplicate)]);
}

#[test]
fn messages_under_way_arrive_after_our_goodbye_and_nothing_is_sent() {
    let mut end = End::up(7);
    assert!(end.request(Request::Bye(ByeReason::Leaving)).is_empty());
    assert_eq!(end.sent(), [Message::Bye(ByeReason::Leaving)]);
    let heartbeat = Message::Heartbeat { seq: 1, digest: 1, interval_ms: 1000, rtt_us: 0 };
    let events = end.receive(&[ping(1), heartbeat]);
    assert!(matches!(events[0], SessionEvent::Received { .. }), "{events:?}");
    assert!(!end.protocol.handle_request(end.now, Request::Heartbeat) && end.sent().is_empty());
    end.protocol.handle_end();
    assert_eq!(downs(&end.round()), [DisconnectReason::Closed]);
    assert!(end.protocol.is_closed());
}

#[test]
fn goodbye_that_the_peer_does_not_answer_ends_after_a_time() {
    let mut end = End::up(7);
    end.request(Request::Bye(ByeReason::Silent));
    assert!(end.wait(LINGER - Duration::from_millis(1)).is_empty());
    assert_eq!(downs(&end.wait(Duration::from_millis(1))), [DisconnectReason::Closed]);
}

#[test]
fn frames_queued_before_a_goodbye_is_known_still_go_out() {
    let mut end = End::up(7);
    let events = end.receive(&[Message::Bye(ByeReason::Leaving)]);
    assert_eq!(downs(&events), [DisconnectReason::Bye(ByeReason::Leaving)]);
    assert!(end.request(Request::Send(wire::encode(&ping(3)).unwrap())).is_empty());
    assert_eq!(end.sent(), [ping(3)]);
    assert!(end.request(Request::Release).is_empty() && end.is_closed && end.protocol.is_closed());
}

#[test]
fn peer_that_breaks_the_protocol_is_told_and_believed_no_more() {
    for bad in [wire::encode(&Message::Hello(Hello::plain())).unwrap(), vec![0, 0, 0, 1, 0xff].into()] {
        let mut end = End::up(7);
        end.protocol.handle_bytes(end.now, &bad);
        let events = end.receive(&[ping(1)]);
        assert!(events.is_empty(), "{events:?}");
        assert_eq!(end.sent(), [Message::Bye(ByeReason::Protocol)]);
        end.protocol.handle_end();
        assert_eq!(downs(&end.round()), [DisconnectReason::Protocol]);
        assert!(end.protocol.take_violation().is_some());
    }
}

#[test]
fn connection_that_cannot_be_decrypted_ends_the_session() {
    let mut end = End::up(3);
    end.protocol.handle_tls_error(Failure::ClosedEarly);
    assert_eq!(downs(&end.round()), [DisconnectReason::Protocol]);
}

#[test]
fn prober_gets_our_hello_and_some_time_to_read_it() {
    let mut end = End::new(3, Role::Acceptor);
    let hello = Hello { capabilities: vec![crate::wire::PROBE_CAPABILITY], ..Hello::plain() };
    assert!(end.receive(&[Message::Hello(hello)]).is_empty());
    assert!(matches!(end.sent()[..], [Message::Hello(_)]));
    end.round();
    assert!(end.is_closed && !end.protocol.is_closed(), "only our direction is closed");
    end.wait(LINGER);
    assert!(end.protocol.is_closed());
}

#[test]
fn follower_acknowledges_and_leader_measures() {
    let ms = Duration::from_millis;
    let mut follower = End::up(3);
    let heartbeat = |seq| Message::Heartbeat { seq, digest: 9, interval_ms: 2000, rtt_us: 0 };
    let events = follower.receive(&[heartbeat(1)]);
    assert!(matches!(events[..], [SessionEvent::Heartbeat { rtt: None, .. }]), "{events:?}");
    assert_eq!(follower.sent(), [Message::HeartbeatAck { seq: 1, digest: 77, interval_ms: 1000 }]);
    assert!(follower.receive(&[heartbeat(2)]).is_empty(), "it brings no news");
    follower.request(Request::Heartbeat);
    assert_eq!(follower.sent().len(), 1, "the acknowledgement only");

    let mut leader = End::up(7);
    leader.request(Request::Heartbeat);
    assert!(matches!(leader.sent()[..], [Message::Heartbeat { seq: 1, rtt_us: 0, .. }]));
    leader.now += ms(30);
    let events = leader.receive(&[Message::HeartbeatAck { seq: 1, digest: 9, interval_ms: 1000 }]);
    assert!(matches!(events[..], [SessionEvent::Heartbeat { rtt: Some(rtt), .. }] if rtt == ms(30)));
    // The follower learns the first time at once. That needs no answer.
    let told = leader.sent();
    assert!(matches!(told[..], [Message::Heartbeat { seq: 1, rtt_us: 30_000, .. }]));
    let mut follower = End::up(3);
    follower.receive(&[heartbeat(1)]);
    follower.now += ms(30);
    let events = follower.receive(&told);
    assert!(matches!(events[..], [SessionEvent::Heartbeat { rtt: Some(rtt), .. }] if rtt == ms(30)));
    assert_eq!(follower.sent().len(), 1, "the first acknowledgement only");
    leader.request(Request::Heartbeat);
    assert!(matches!(leader.sent()[..], [Message::Heartbeat { seq: 2, .. }]));
    // Later times go with the next heartbeat.
    leader.receive(&[Message::HeartbeatAck { seq: 2, digest: 9, interval_ms: 1000 }]);
    assert_eq!(leader.sent(), []);
}

#[test]
fn peer_that_does_not_read_gets_one_acknowledgement_later_and_is_dropped_in_time() {
    let mut end = End::up(3);
    end.is_blocked = true;
    end.request(Request::Send(wire::encode(&ping(1)).unwrap()));
    assert!(!end.protocol.wants_requests());
    let heartbeats: Vec<Message> =
        (1..=100).map(|seq| Message::Heartbeat { seq, digest: 9, interval_ms: 1000, rtt_us: 0 }).collect();
    end.receive(&heartbeats);
    assert_eq!(end.sent(), [ping(1)]);
    end.is_blocked = false;
    end.round();
    assert!(matches!(end.sent()[..], [Message::HeartbeatAck { seq: 100, .. }]));
    end.is_blocked = true;
    end.request(Request::Send(wire::encode(&ping(2)).unwrap()));
    assert!(end.wait(WRITE_STALL - Duration::from_millis(1)).is_empty());
    assert_eq!(downs(&end.wait(Duration::from_millis(1))), [DisconnectReason::Slow]);
}

#[test]
fn requests_that_waited_for_the_connection_are_taken_without_a_wake() {
    let mut end = End::up(3);
    end.is_blocked = true;
    end.request(Request::Send(wire::encode(&ping(1)).unwrap()));
    end.round();
    assert_eq!(end.protocol.poll_timeout(), Some(end.now + WRITE_STALL));
    end.is_blocked = false;
    end.now += Duration::from_secs(1);
    end.protocol.handle_transmitted(end.now, true);
    assert!(end.protocol.wants_requests());
    assert_eq!(end.protocol.poll_timeout(), Some(end.now), "requests may wait");
    let since = end.now;
    end.now += Duration::from_secs(1);
    end.protocol.handle_transmitted(end.now, false);
    assert_eq!(
        end.protocol.poll_timeout(),
        Some(since + Duration::from_secs(1) + WRITE_STALL),
        "blocked again"
    );
    end.protocol.handle_transmitted(end.now, true);
    end.round();
    assert_eq!(end.protocol.poll_timeout(), None);
}

#[test]
fn drain_answers_after_the_messages_that_had_arrived() {
    let mut end = End::up(7);
    end.protocol.handle_bytes(end.now, &wire::encode(&ping(1)).unwrap());
    let arrived = end.now;
    end.now += Duration::from_secs(1);
    let events = end.request(Request::DrainUnread);
    let [SessionEvent::Received { .. }, SessionEvent::Drained { heard }] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(heard, arrived);
}

#[test]
fn flood_after_our_goodbye_is_read_at_the_same_rate() {
    let mut end = End::up(7);
    end.request(Request::Bye(ByeReason::Duplicate));
    let all = u64::from(crate::limits::FRAMES_BURST) + 500;
    let messages: Vec<Message> = (0..all).map(ping).collect();
    let arrived = end.receive(&messages).len();
    assert_eq!(arrived, crate::limits::FRAMES_BURST as usize);
    assert!(!end.protocol.wants_bytes(), "TCP slows the peer down");
    let later = end.wait(Duration::from_millis(200)).len();
    assert!((1..=400).contains(&later), "{later}");
    end.wait(LINGER);
    assert!(end.protocol.is_closed());
}

#[test]
fn sessions_of_one_key_share_the_rate_of_frames() {
    let [mut first, mut second] = [End::up(7), End::up(7)];
    let frames = KeyRateLimit::new(first.now);
    first.protocol.share_rate_limit(frames.clone());
    second.protocol.share_rate_limit(frames);
    let messages: Vec<Message> = (0..u64::from(crate::limits::FRAMES_BURST) + 500).map(ping).collect();
    assert_eq!(first.receive(&messages).len(), crate::limits::FRAMES_BURST as usize);
    assert!(second.receive(&messages[..10]).is_empty());
    let of_both =
        first.wait(Duration::from_millis(200)).len() + second.wait(Duration::from_millis(200)).len();
    assert!((1..=400).contains(&of_both), "{of_both}");
}

#[test]
fn flood_is_read_at_the_stated_rate_and_nothing_is_lost() {
    let mut end = End::up(7);
    let all = u64::from(crate::limits::FRAMES_BURST) + 500;
    let mut received = end.receive(&(1..=all).map(ping).collect::<Vec<_>>()).len();
    assert!(!end.protocol.wants_bytes(), "the rest waits");
    assert!(end.round().is_empty(), "the pause is not over");
    // The end of the pause is the next thing to do, also while the peer reads nothing.
    let resume_at = end.protocol.poll_timeout();
    end.is_blocked = true;
    end.request(Request::Send(wire::encode(&ping(1)).unwrap()));
    assert_eq!(end.protocol.poll_timeout(), resume_at);
    end.is_blocked = false;
    while received < usize::try_from(all).unwrap() {
        let resume_at = end.protocol.poll_timeout().expect("the pause ends");
        end.now = resume_at;
        received += end.round().len();
    }
    assert!(end.protocol.wants_bytes());
}

#[derive(Debug)]
struct NoWaker;

impl crate::session::Wake for NoWaker {
    fn wake(&self) {}
}

/// A session with a circuit named 3, and the other end of its pipe.
fn with_circuit() -> (End, PipeEnd) {
    let mut end = End::up(7);
    let [near, far] = crate::session::pipe([Arc::new(NoWaker), Arc::new(NoWaker)]);
    end.request(Request::Attach(3, near, end.now + ACQUAINTED_AFTER));
    (end, far)
}

fn data(circuit: CircuitId, length: usize) -> Message {
    Message::CircuitData { circuit, bytes: vec![1; length] }
}

#[test]
fn circuit_passes_bytes_both_ways_until_it_is_closed() {
    let (mut end, mut far) = with_circuit();
    assert!(end.receive(&[data(3, 5)]).is_empty(), "the coordinator does not see bytes of circuits");
    assert_eq!(far.take(9).bytes, [1; 5]);
    far.write(b"hello");
    far.grant(5);
    end.round();
    let answer = Message::CircuitData { circuit: 3, bytes: b"hello".to_vec() };
    assert_eq!(end.sent(), [answer, Message::CircuitCredit { circuit: 3, bytes: 5 }]);
    end.request(Request::CloseCircuit(3, CircuitReason::Ended));
    assert_eq!(end.sent(), [Message::CircuitClose { circuit: 3, reason: CircuitReason::Ended }]);
    assert_eq!(far.take(9).ended, Some(CircuitReason::Ended));
    // Bytes that were under way, and those on a circuit that never was.
    assert!(
        end.receive(&[data(3, 5), data(77, 5), Message::CircuitCredit { circuit: 77, bytes: 1 }]).is_empty()
    );
    assert!(end.sent().is_empty() && end.protocol.is_open());
}

#[test]
fn carrier_passes_a_refusal_on_as_the_word_of_the_other_end() {
    use CircuitReason::{Ended, Gone, Limit, NotAdmitted, NotCarrying, NotConnected, Refused};
    let told = [
        (Limit, Refused),
        (NotCarrying, Refused),
        (NotConnected, Refused),
        (NotAdmitted, Refused),
        (Ended, Ended),
        (Gone, Gone),
    ];
    for (told, passed_on) in told {
        let (mut end, far) = with_circuit();
        end.receive(&[Message::CircuitClose { circuit: 3, reason: told }]);
        assert_eq!(far.take(9).ended, Some(passed_on), "{told}");
    }
}

#[test]
fn peer_that_sends_more_than_it_may_loses_the_circuit_and_not_the_session() {
    let (mut end, far) = with_circuit();
    let chunk = wire::CIRCUIT_BYTES_MAX;
    let most = crate::limits::CIRCUIT_WINDOW_BYTES / chunk;
    assert!(end.receive(&vec![data(3, chunk); most]).is_empty());
    let events = end.receive(&[data(3, 1)]);
    let close = Message::CircuitClose { circuit: 3, reason: CircuitReason::Credit };
    let is_close =
        |event: &SessionEvent| matches!(event, SessionEvent::Received { message, .. } if *message == close);
    assert!(events.len() == 1 && is_close(&events[0]), "{events:?}");
    assert_eq!(end.sent(), std::slice::from_ref(&close));
    assert_eq!(far.take(usize::MAX).ended, Some(CircuitReason::Credit));
    assert!(end.protocol.is_open());
    // The same for credit for bytes that it was not sent.
    let (mut end, far) = with_circuit();
    end.receive(&[Message::CircuitCredit { circuit: 3, bytes: 1 }]);
    assert_eq!(end.sent(), [close]);
    assert_eq!(far.take(usize::MAX).ended, Some(CircuitReason::Credit));
    assert!(end.protocol.is_open());
}

#[test]
fn end_of_a_session_ends_its_circuits() {
    for request in [Request::Bye(ByeReason::Leaving), Request::Release] {
        let (mut end, far) = with_circuit();
        end.request(request);
        assert_eq!(far.take(9).ended, Some(CircuitReason::Gone));
    }
    let (mut end, far) = with_circuit();
    end.receive(&[Message::Bye(ByeReason::Leaving)]);
    assert_eq!(far.take(9).ended, Some(CircuitReason::Gone));
}

/// Chunks of circuit data that a key sends before it must pause.
fn chunks_until_pause(end: &mut End, far: &mut PipeEnd) -> usize {
    let mut chunks = 0;
    while end.protocol.wants_bytes() {
        end.receive(&[data(3, wire::CIRCUIT_BYTES_MAX)]);
        let taken = far.take(usize::MAX).bytes.len();
        far.grant(taken);
        end.round();
        chunks += 1;
    }
    chunks
}

#[test]
fn bytes_of_circuits_have_a_rate_of_their_own() {
    let (mut end, mut far) = with_circuit();
    let chunks = |bytes: usize| bytes / wire::CIRCUIT_BYTES_MAX;
    assert_eq!(chunks_until_pause(&mut end, &mut far), chunks(CIRCUIT_BYTES_BURST_OF_STRANGER));
    // They have taken nothing from other messages, nor those from them.
    let pause = end.protocol.poll_timeout().expect("a pause");
    end.now = pause.max(end.now + Duration::from_secs(1));
    end.round();
    let pings: Vec<Message> = (0..u64::from(crate::limits::FRAMES_BURST)).map(ping).collect();
    assert_eq!(end.receive(&pings).len(), pings.len());
    end.now += Duration::from_secs(1);
    end.round();
    let in_two_seconds = chunks(2 * CIRCUIT_BYTES_PER_SECOND_OF_STRANGER);
    assert_eq!(chunks_until_pause(&mut end, &mut far), in_two_seconds);
    // A small message costs more than its bytes. The peer is still a stranger.
    end.now += Duration::from_secs(10);
    end.round();
    let mut messages = 0;
    while end.protocol.wants_bytes() {
        end.receive(&[data(3, 1)]);
        let taken = far.take(usize::MAX).bytes.len();
        far.grant(taken);
        end.round();
        messages += 1;
    }
    assert_eq!(messages, CIRCUIT_BYTES_BURST_OF_STRANGER / CIRCUIT_MESSAGE_BYTES_MIN);
}

#[test]
fn credit_counts_for_the_rate_of_circuits_and_not_for_that_of_messages() {
    let mut end = End::up(7);
    let credit = vec![Message::CircuitCredit { circuit: 3, bytes: 1 }; 1000];
    let mut messages = 0;
    while end.protocol.wants_bytes() {
        end.receive(&credit);
        messages += credit.len();
    }
    let most = CIRCUIT_BYTES_BURST_OF_STRANGER / CIRCUIT_MESSAGE_BYTES_MIN;
    assert!((most..=most + credit.len()).contains(&messages), "{messages} of {most}");
}

#[test]
fn peer_above_strangers_may_send_more_bytes_in_circuits() {
    let (mut end, mut far) = with_circuit();
    let of_stranger = chunks_until_pause(&mut end, &mut far);
    let [near, _far] = crate::session::pipe([Arc::new(NoWaker), Arc::new(NoWaker)]);
    end.request(Request::Attach(4, near, end.now));
    end.now = end.protocol.poll_timeout().expect("a pause");
    end.round();
    let in_all = of_stranger + chunks_until_pause(&mut end, &mut far);
    let expected = CIRCUIT_BYTES_BURST / wire::CIRCUIT_BYTES_MAX;
    // The pause brings some more.
    assert!((expected..expected + 500).contains(&in_all), "{in_all} of {expected}");
}
