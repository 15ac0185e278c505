//! The client's side of NAT-PMP (RFC 6886): asks a router for its outside address, and to pass on connections to this
//! node. Reads no clock and has no socket.
//!
//! Nothing proves that an answer is the router's. A false one makes this node tell its peers a wrong address of itself,
//! which costs them dials that fail, as any address that a peer claims.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The port on which routers answer.
pub(crate) const ROUTER_PORT: u16 = 5351;
/// The longest answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 16;

const VERSION: u8 = 0;
const ADDRESS: u8 = 0;
const MAP_TCP: u8 = 2;
const IS_ANSWER: u8 = 128;
const SUCCESS: u16 = 0;
/// Wait for the first answer; then twice as long after each question (RFC 6886, section 3.1).
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Questions without an answer after which the router counts as silent: after two minutes.
const QUESTIONS_MAX: u32 = 9;
/// Wait before a router that is silent, or refuses, is asked again; then twice as long each time. After a power failure it
/// may start later than this node.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(60);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60 * 60);
/// Time for which the router is asked to pass on connections. It forgets a node that is killed, and a node finds within
/// half of this time that the router has forgotten.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Shorter lifetimes would make this node ask all the time.
const LIFETIME_MIN: Duration = Duration::from_secs(120);

/// What this node asks its router.
#[derive(Debug)]
pub(crate) struct PortMapper {
    /// The port on which this node listens.
    port: u16,
    step: Step,
    /// The wait before the next question, if the router is silent or refuses.
    ask_again: Duration,
    /// Connections to this address reach this node, until this time.
    mapped: Option<(SocketAddr, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is asked before this time.
    Resting { until: Instant },
    /// The router has been asked for this so many times, and is asked again at this time.
    Asking { question: Question, asked: u32, again: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Address,
    /// The outside address is known.
    Mapping {
        outside: Ipv4Addr,
    },
}

impl PortMapper {
    pub(crate) fn new(port: u16, now: Instant) -> Self {
        Self { port, step: Step::Resting { until: now }, ask_again: ASK_AGAIN_MIN, mapped: None }
    }

    /// The address at which the router passes connections on to this node.
    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        self.mapped.map(|(addr, _)| addr)
    }

    /// The time of the next question, or of the end of what is mapped.
    pub(crate) fn next(&self) -> Instant {
        let step = match self.step {
            Step::Resting { until } => until,
            Step::Asking { again, .. } => again,
        };
        self.mapped.map_or(step, |(_, until)| until.min(step))
    }

    /// Whether the router is not asked now.
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.step, Step::Resting { .. })
    }

    /// The question that is due.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.mapped = self.mapped.filter(|(_, until)| now < *until);
        let (question, asked) = match self.step {
            Step::Resting { until } if now >= until => (Question::Address, 0),
            Step::Asking { question, asked, again } if now >= again => (question, asked),
            Step::Resting { .. } | Step::Asking { .. } => return None,
        };
        if asked == QUESTIONS_MAX {
            self.give_up(now);
            return None;
        }
        let again = now + FIRST_WAIT * (1 << asked);
        self.step = Step::Asking { question, asked: asked + 1, again };
        Some(match question {
            Question::Address => vec![VERSION, ADDRESS],
            Question::Mapping { .. } => {
                let outside = self.mapped.map_or(self.port, |(addr, _)| addr.port());
                self.map_request(outside, LIFETIME)
            }
        })
    }

    /// The router is not there, or does not want to be asked.
    pub(crate) fn give_up(&mut self, now: Instant) {
        self.step = Step::Resting { until: now + self.ask_again };
        self.ask_again = (self.ask_again * 2).min(ASK_AGAIN_MAX);
    }

    /// The request that ends what is mapped.
    pub(crate) fn unmap(&mut self) -> Option<Vec<u8>> {
        self.mapped.take().map(|_| self.map_request(0, Duration::ZERO))
    }

    fn map_request(&self, outside: u16, lifetime: Duration) -> Vec<u8> {
        let lifetime = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let mut request = vec![VERSION, MAP_TCP, 0, 0];
        request.extend(self.port.to_be_bytes());
        request.extend(outside.to_be_bytes());
        request.extend(lifetime.to_be_bytes());
        request
    }

    /// Takes a datagram of the router. One that answers no question is ignored. The time since the router started, which
    /// each answer tells, decides nothing: this node asks for everything again each time.
    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let Step::Asking { question, .. } = self.step else {
            return;
        };
        let opcode = match question {
            Question::Address => ADDRESS,
            Question::Mapping { .. } => MAP_TCP,
        };
        let Some(([VERSION, op, result @ ..], rest)) = datagram.split_first_chunk::<4>() else {
            return;
        };
        if *op != opcode | IS_ANSWER {
            return;
        }
        if u16::from_be_bytes(*result) != SUCCESS {
            return self.give_up(now);
        }
        // The first four bytes are the time since the router started.
        match (question, rest) {
            (Question::Address, &[_, _, _, _, a, b, c, d]) => {
                let outside = Ipv4Addr::new(a, b, c, d);
                let is_host = !outside.is_unspecified()
                    && !outside.is_loopback()
                    && !outside.is_multicast()
                    && !outside.is_broadcast();
                if is_host {
                    self.step =
                        Step::Asking { question: Question::Mapping { outside }, asked: 0, again: now };
                } else {
                    self.give_up(now);
                }
            }
            (Question::Mapping { outside }, &[_, _, _, _, i, j, o, p, s, t, u, v]) => {
                let [inside, port] = [[i, j], [o, p]].map(u16::from_be_bytes);
                if inside != self.port {
                    return;
                }
                let lifetime = Duration::from_secs(u32::from_be_bytes([s, t, u, v]).into());
                if port == 0 || lifetime < LIFETIME_MIN {
                    return self.give_up(now);
                }
                let lifetime = lifetime.min(LIFETIME);
                self.mapped = Some(((outside, port).into(), now + lifetime));
                self.step = Step::Resting { until: now + lifetime / 2 };
                self.ask_again = ASK_AGAIN_MIN;
            }
            _ => {}
        }
    }
}

/// The router of the IPv4 default route, from the text of `/proc/net/route`.
pub(crate) fn default_router(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, router, mask) = (hex(1)?, hex(2)?, hex(7)?);
        // The kernel shows each address as a number in the byte order of the machine.
        (destination == 0 && mask == 0 && router != 0).then(|| Ipv4Addr::from(router.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

    fn answer(op: u8, result: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION, op | IS_ANSWER];
        bytes.extend(result.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(rest);
        bytes
    }

    fn address(outside: Ipv4Addr) -> Vec<u8> {
        answer(ADDRESS, SUCCESS, &outside.octets())
    }

    fn mapping(inside: u16, outside: u16, lifetime_s: u32) -> Vec<u8> {
        let ports = [inside.to_be_bytes(), outside.to_be_bytes()].concat();
        answer(MAP_TCP, SUCCESS, &[&ports[..], &lifetime_s.to_be_bytes()].concat())
    }

    /// A node that listens on port 8080 and waits for the answer to its question about the mapping.
    fn asking() -> (PortMapper, Instant) {
        let now = crate::test_now();
        let mut mapper = PortMapper::new(8080, now);
        assert_eq!(mapper.poll_transmit(now), Some(vec![0, 0]));
        mapper.handle_datagram(now, &address(OUTSIDE));
        let request = [0, 2, 0, 0, 0x1f, 0x90, 0x1f, 0x90, 0, 0, 14, 16];
        assert_eq!(mapper.poll_transmit(now), Some(request.into()));
        (mapper, now)
    }

    #[test]
    fn mapping_is_renewed_at_half_of_its_lifetime_and_ended() {
        let (mut mapper, mut now) = asking();
        mapper.handle_datagram(now, &mapping(8080, 40_000, 1000));
        assert_eq!(mapper.mapped(), Some((OUTSIDE, 40_000).into()));
        assert!(mapper.is_resting() && mapper.poll_transmit(now).is_none());
        now += Duration::from_secs(500);
        assert_eq!(mapper.next(), now);
        assert_eq!(mapper.poll_transmit(now), Some(vec![0, 0]));
        // The router started again meanwhile, has another address, and gives another port.
        mapper.handle_datagram(now, &address(Ipv4Addr::new(203, 0, 113, 8)));
        let asked = mapper.poll_transmit(now).unwrap();
        assert_eq!(asked[6..8], 40_000_u16.to_be_bytes(), "it asks for the same port");
        mapper.handle_datagram(now, &mapping(8080, 40_001, u32::MAX));
        assert_eq!(mapper.mapped(), Some(([203, 0, 113, 8], 40_001).into()));
        assert_eq!(mapper.next(), now + LIFETIME / 2, "no router is left alone for longer");
        assert_eq!(mapper.unmap(), Some(vec![0, 2, 0, 0, 0x1f, 0x90, 0, 0, 0, 0, 0, 0]));
        assert_eq!((mapper.unmap(), mapper.mapped()), (None, None));
    }

    #[test]
    fn silent_router_is_asked_nine_times_and_then_again_after_ever_longer_waits() {
        let start = crate::test_now();
        let (mut mapper, mut now) = (PortMapper::new(8080, start), start);
        let in_turn: Vec<Duration> = (0..9).map(|n| FIRST_WAIT * ((1 << n) - 1)).collect();
        let mut rests = Vec::new();
        for _ in 0..8 {
            let turn = now;
            let mut asked = Vec::new();
            loop {
                asked.extend(mapper.poll_transmit(now).map(|_| now - turn));
                if mapper.is_resting() {
                    break;
                }
                now = mapper.next();
            }
            assert_eq!(asked, in_turn);
            rests.push((mapper.next() - now).as_secs() / 60);
            now = mapper.next();
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn router_that_was_there_once_is_asked_again_soon() {
        let (mut mapper, now) = asking();
        (0..9).for_each(|_| mapper.give_up(now));
        assert_eq!(mapper.next(), now + ASK_AGAIN_MAX);
        let now = mapper.next();
        mapper.poll_transmit(now);
        mapper.handle_datagram(now, &address(OUTSIDE));
        mapper.handle_datagram(now, &mapping(8080, 40_000, 3600));
        mapper.give_up(now);
        assert_eq!(mapper.next(), now + ASK_AGAIN_MIN);
    }

    #[test]
    fn mapping_that_is_not_renewed_ends() {
        let (mut mapper, now) = asking();
        mapper.handle_datagram(now, &mapping(8080, 40_000, 1000));
        let end = now + Duration::from_secs(1000);
        let mut at = now;
        while at < end {
            mapper.poll_transmit(at);
            assert!(mapper.mapped().is_some());
            at = mapper.next();
        }
        mapper.poll_transmit(at);
        assert_eq!((at, mapper.mapped()), (end, None));
    }

    #[test]
    fn bad_answers_map_nothing() {
        let good = mapping(8080, 40_000, 3600);
        let ignored = [
            Vec::new(),
            good[..15].to_vec(),
            [&good[..], &[0]].concat(),
            // Another version, a question, other opcodes, another port.
            [&[1], &good[1..]].concat(),
            [&[0, MAP_TCP], &good[2..]].concat(),
            [&[0, 1 | IS_ANSWER], &good[2..]].concat(),
            address(OUTSIDE),
            mapping(8081, 40_000, 3600),
        ];
        for datagram in ignored {
            let (mut mapper, now) = asking();
            mapper.handle_datagram(now, &datagram);
            assert!(!mapper.is_resting() && mapper.mapped().is_none(), "{datagram:?}");
        }
        // No port, no time, too little time, and refusals.
        let refused = [
            mapping(8080, 0, 3600),
            mapping(8080, 40_000, 0),
            mapping(8080, 40_000, 119),
            answer(MAP_TCP, 2, &[0; 8]),
            answer(MAP_TCP, 3, &[]),
        ];
        for datagram in refused {
            let (mut mapper, now) = asking();
            mapper.handle_datagram(now, &datagram);
            assert_eq!((mapper.mapped(), mapper.next()), (None, now + ASK_AGAIN_MIN), "{datagram:?}");
        }
        // An outside address that is none.
        for outside in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            let now = crate::test_now();
            let mut mapper = PortMapper::new(8080, now);
            mapper.poll_transmit(now);
            mapper.handle_datagram(now, &address(outside.into()));
            assert!(mapper.is_resting(), "{outside:?}");
        }
        // An answer to no question.
        let now = crate::test_now();
        let mut mapper = PortMapper::new(8080, now);
        mapper.handle_datagram(now, &address(OUTSIDE));
        mapper.handle_datagram(now, &good);
        assert!(mapper.mapped().is_none() && mapper.is_resting());
    }

    #[test]
    fn router_of_the_default_route_is_found() {
        let line = |destination: u32, router: [u8; 4], mask: u32| {
            let router = u32::from_ne_bytes(router);
            format!("eth0\t{destination:08X}\t{router:08X}\t0003\t0\t0\t100\t{mask:08X}\t0\t0\t0\n")
        };
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let local = line(0x0001_a8c0, [0; 4], 0x00ff_ffff);
        let routed = line(0, [192, 168, 1, 1], 0);
        assert_eq!(default_router(&format!("{head}{local}{routed}")), Some(Ipv4Addr::new(192, 168, 1, 1)));
        for routes in
            ["", head, &format!("{head}{local}"), &format!("{head}{}", line(0, [0; 4], 0)), "a\nb c d"]
        {
            assert_eq!(default_router(routes), None, "{routes}");
        }
    }
}
