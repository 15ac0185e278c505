//! Finds the IP addresses of a dial, tries them in turn, and opens TCP connections from a chosen source address; a
//! waker can interrupt an attempt.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{bind, connect, sockopt};

use super::failure::Failure;
use super::link::poll_until;
use super::lookups::Lookups;
use crate::limits::{CONNECT_TIMEOUT, NAME_ADDRS_MAX};
use crate::mesh::{DialSource, Skip};
use crate::net::addr::{DialAddr, is_private};
use crate::net::interfaces::Interfaces;
use crate::net::local_ip::LocalIp;
use crate::net::socket;
use crate::net::waker::Waker;
use crate::trust::pin::Expected;

/// What a session dials, and which peer must answer.
pub(crate) struct DialTarget {
    pub(crate) addr: DialAddr,
    pub(crate) expected: Expected,
    pub(crate) source: DialSource,
    /// What a dial to a name leaves out.
    pub(crate) skip: Skip,
}

/// The end of an attempt to reach one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Until {
    /// The deadline for the connection.
    pub(super) connected: Instant,
    /// The deadline for the TLS handshake.
    pub(super) secured: Instant,
}

/// Returns the IP addresses that this dial tries. Looks a name up if the budget of its source allows that.
///
/// # Errors
/// The name is not found or not looked up, or none of its addresses may be dialled.
pub(super) fn addresses(
    target: &DialTarget,
    lookups: &Lookups,
    interfaces: &Interfaces,
) -> Result<Vec<SocketAddr>, Failure> {
    // The system's resolver may block for an unbounded time. No other session waits for it.
    let look_up = |host: &str, port| Ok((host, port).to_socket_addrs().map_err(not_found)?.collect());
    let turn = fastrand::usize(..);
    let addrs = resolve(target, lookups, turn, Instant::now(), look_up)?;
    Ok(addrs.into_iter().map(|addr| interfaces.current(addr)).collect())
}

fn resolve(
    target: &DialTarget,
    lookups: &Lookups,
    turn: usize,
    now: Instant,
    look_up: impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>>,
) -> Result<Vec<SocketAddr>, Failure> {
    match &target.addr {
        DialAddr::Socket(addr) => Ok(vec![*addr]),
        DialAddr::LinkLocal { ip, interface, port } => {
            let index = interface.index().map_err(Failure::Connect)?;
            Ok(vec![SocketAddrV6::new(*ip, *port, 0, index).into()])
        }
        DialAddr::Name { host, port } => {
            let _permit = lookups.begin(target.source, now).map_err(Failure::Connect)?;
            let found = look_up(host.as_str(), *port).map_err(Failure::Connect)?;
            let loopback_too = !target.source.is_from_peer() || host.is_loopback();
            let usable = usable(found, loopback_too, !target.skip.private);
            if usable.is_empty() {
                let text = "the name has no address that may be dialled";
                return Err(Failure::Connect(io::Error::new(ErrorKind::NotFound, text)));
            }
            let (known, new): (Vec<_>, Vec<_>) =
                usable.into_iter().partition(|addr| target.skip.addrs.contains(addr));
            let mut chosen = choose(new, turn);
            // A proxy may lead to another peer at an address where one is connected.
            if !known.is_empty() && chosen.len() < NAME_ADDRS_MAX {
                chosen.push(known[turn % known.len()]);
            }
            Ok(chosen)
        }
    }
}

/// The dialable addresses of a name, each once. Loopback addresses are dropped without `loopback_too`: a name from a
/// peer leads to this machine only if it is a loopback name, because the owner of another name can point it anywhere
/// at any time. For the same reason addresses in private networks are dropped without `private_too`.
fn usable(found: Vec<SocketAddr>, loopback_too: bool, private_too: bool) -> Vec<SocketAddr> {
    let mut usable = Vec::new();
    for addr in found.into_iter().map(DialAddr::from) {
        if let Some(socket) = addr.socket()
            && addr.is_dialable()
            && (loopback_too || !addr.is_loopback())
            && (private_too || !is_private(socket.ip()))
            && !usable.contains(&socket)
        {
            usable.push(socket);
        }
    }
    usable
}

/// Chooses the IP addresses of a name that one dial tries: at most [`NAME_ADDRS_MAX`], in the order of the system's
/// resolver (RFC 6724). If there are more, the first is always tried and the others take turns: within `n` successive
/// turns each of `n` addresses is tried.
fn choose(mut addrs: Vec<SocketAddr>, turn: usize) -> Vec<SocketAddr> {
    if addrs.len() > NAME_ADDRS_MAX {
        let others = addrs.split_off(1);
        let start = turn % others.len();
        let mut chosen: Vec<usize> = (start..).take(NAME_ADDRS_MAX - 1).map(|at| at % others.len()).collect();
        chosen.sort_unstable();
        addrs.extend(chosen.into_iter().map(|at| others[at]));
    }
    addrs
}

/// Attempts these addresses one after the other, until one succeeds, all within one deadline. Each address gets an
/// equal share of the remaining time, so a silent address takes no time from the last one.
///
/// # Errors
/// The failure of the address that tells the user the most; `Cancelled` if this node ended the dial.
pub(super) fn in_turn<T>(
    addrs: &[SocketAddr],
    deadline: Instant,
    mut clock: impl FnMut() -> Instant,
    mut attempt: impl FnMut(SocketAddr, Until) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut failure: Option<Failure> = None;
    for (left, &addr) in (1..=addrs.len()).rev().zip(addrs) {
        let now = clock();
        if now >= deadline {
            break;
        }
        let share = deadline.duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        match attempt(addr, Until { connected: now + share.min(CONNECT_TIMEOUT), secured: now + share }) {
            Ok(done) => return Ok(done),
            Err(Failure::Cancelled) => return Err(Failure::Cancelled),
            Err(later) => {
                failure = Some(match failure {
                    Some(earlier) => earlier.or_later(later),
                    None => later,
                });
            }
        }
    }
    Err(failure.unwrap_or_else(|| {
        let text = "no time to connect after the lookup of the name";
        Failure::Connect(io::Error::new(ErrorKind::TimedOut, text))
    }))
}

/// Returns the error of a lookup, or a clearer one if the system has no resolver configuration: the C library
/// then reports a "temporary failure", which does not help.
fn not_found(error: io::Error) -> io::Error {
    let is_bare = ["/etc/resolv.conf", "/etc/hosts"].iter().all(|file| !Path::new(file).exists());
    if is_bare {
        let text = "names cannot be looked up because there is no /etc/resolv.conf; use the IP address";
        return io::Error::new(error.kind(), text);
    }
    error
}

/// Connects to one address before the deadline. `interrupted` is called first and after each wake; if it returns true,
/// the attempt ends.
///
/// # Errors
/// No connection; `Interrupted` if the attempt was ended.
pub(super) fn open(
    addr: SocketAddr,
    source: Option<LocalIp>,
    waker: &Waker,
    deadline: Instant,
    interrupted: &mut impl FnMut() -> bool,
) -> io::Result<TcpStream> {
    if interrupted() {
        return Err(ErrorKind::Interrupted.into());
    }
    let socket = socket::tcp(&addr)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    // Peers know this node by its listening address, so dials come from it.
    if let Some(source) = source.filter(|source| needs_bind(source.ip(), addr.ip())) {
        bind(&socket, &source.socket_addr(0)?)?;
    }
    match connect(&socket, &addr) {
        Ok(()) => return Ok(socket.into()),
        Err(error) if error == rustix::io::Errno::INPROGRESS => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        let mut fds = [
            PollFd::new(waker.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT),
        ];
        poll_until(&mut fds, Some(deadline))?;
        let [woken, ready] = fds.each_ref().map(PollFd::revents);
        if !woken.is_empty() {
            waker.clear();
            if interrupted() {
                return Err(ErrorKind::Interrupted.into());
            }
        }
        if !ready.is_empty() {
            sockopt::socket_error(&socket)??;
            return Ok(socket.into());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer to the connection attempt"));
        }
    }
}

/// Whether a dial from `source` to `to` must bind its socket. The system gives the first address of loopback to a dial
/// to that address anyway. A bound port must be free of any connection, and above 14,000 connections from one address
/// Linux needs 6 ms to find such a port. One node makes less, but a mesh of 150 nodes on one machine makes more.
fn needs_bind(source: IpAddr, to: IpAddr) -> bool {
    let is_first_of_loopback =
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&source);
    source.is_ipv4() == to.is_ipv4() && !(is_first_of_loopback && source == to)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::limits::{HANDSHAKE_TIMEOUT, PEER_LOOKUPS_AT_ONCE, PEER_LOOKUPS_BURST};
    use crate::session::link::LinkError;
    use crate::trust::peer_id::PeerId;
    use crate::trust::tls::Rejection;

    /// Different addresses that a peer can have.
    fn addrs(count: usize) -> Vec<SocketAddr> {
        let ip = |at: usize| [10, 9, u8::try_from(at / 256).unwrap(), u8::try_from(at % 256).unwrap()];
        (0..count).map(|at| (ip(at), 9).into()).collect()
    }

    /// Full budgets, and the moment at which all lookups of a test happen.
    fn budgets() -> (Lookups, Instant) {
        let now = crate::test_now();
        (Lookups::new(now), now)
    }

    /// Looks a name up with the test's own name server.
    fn resolve_with(
        name: &str,
        source: DialSource,
        (lookups, now): (&Lookups, Instant),
        look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>>,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let target = target(name, source, Skip::default());
        resolve(&target, lookups, 0, now, |_, _| look_up())
    }

    fn target(name: &str, source: DialSource, skip: Skip) -> DialTarget {
        DialTarget { addr: name.parse().unwrap(), expected: Expected::AnyPeer, source, skip }
    }

    /// The kind of error of a connection attempt.
    fn kind(failure: &Failure) -> ErrorKind {
        match failure {
            Failure::Connect(error) => error.kind(),
            other => panic!("{other}"),
        }
    }

    fn refused() -> Failure {
        Failure::Connect(ErrorKind::ConnectionRefused.into())
    }

    fn wrong_peer() -> Failure {
        let found = PeerId::from_bytes([7; 32]);
        Failure::Link(LinkError::Rejected(Rejection::WrongId { expected: Expected::AnyPeer, found }))
    }

    #[test]
    fn name_from_a_peer_leads_to_this_machine_only_if_it_is_a_loopback_name() {
        let here: Vec<SocketAddr> =
            ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.2]:9"].map(|addr| addr.parse().unwrap()).into();
        let (lookups, now) = budgets();
        let resolved = |name, source| resolve_with(name, source, (&lookups, now), || Ok(here.clone()));
        for source in [DialSource::KnownPeer, DialSource::UnknownPeer] {
            assert_eq!(kind(&resolved("example.org:9", source).unwrap_err()), ErrorKind::NotFound);
            assert_eq!(resolved("localhost:9", source).unwrap().len(), here.len());
        }
        assert_eq!(resolved("example.org:9", DialSource::User).unwrap().len(), here.len());
    }

    #[test]
    fn undialable_addresses_are_not_tried() {
        let found =
            ["0.0.0.0:9", "224.0.0.1:9", "10.0.0.1:0", "10.0.0.1:9"].map(|addr| addr.parse().unwrap());
        assert_eq!(usable(found.into(), true, true), [found[3]]);
        // They take no slot of a dialable address.
        let many = [&[found[0]; 50][..], &addrs(NAME_ADDRS_MAX)].concat();
        assert_eq!(choose(usable(many, true, true), 7), addrs(NAME_ADDRS_MAX));
    }

    #[test]
    fn few_addresses_are_all_tried_in_the_order_of_the_resolver() {
        for count in 0..=NAME_ADDRS_MAX {
            for turn in [0, 1, 2, usize::MAX] {
                assert_eq!(choose(addrs(count), turn), addrs(count));
            }
        }
    }

    #[test]
    fn many_addresses_take_turns_and_keep_the_order_of_the_resolver() {
        for count in [NAME_ADDRS_MAX + 1, 6, 1000] {
            let all = addrs(count);
            let mut tried = BTreeSet::new();
            for turn in 0..count {
                let chosen = choose(all.clone(), turn);
                assert_eq!((chosen.len(), chosen[0]), (NAME_ADDRS_MAX, all[0]));
                assert!(chosen.is_sorted(), "{chosen:?}");
                tried.extend(chosen);
            }
            assert_eq!(tried.len(), count);
        }
        assert_eq!(choose(addrs(6), usize::MAX).len(), NAME_ADDRS_MAX);
    }

    #[test]
    fn last_of_six_addresses_is_reached_within_a_few_dials() {
        let all = addrs(6);
        for first_turn in 0..all.len() {
            let reached = |turn| choose(all.clone(), turn).contains(&all[5]);
            assert!((first_turn..first_turn + 3).any(reached), "from turn {first_turn}");
        }
    }

    /// Dials addresses that never answer, on the test's own clock, `begun` after the dial began. Returns the
    /// start time of each attempt, and the final error.
    fn silent_dial(count: usize, begun: Duration) -> (Vec<Duration>, Failure) {
        let start = crate::test_now();
        let (now, attempts) = (Cell::new(start + begun), RefCell::new(Vec::new()));
        let silence = |_, until: Until| -> Result<(), Failure> {
            let latest = start + HANDSHAKE_TIMEOUT;
            assert!(until.connected <= now.get() + CONNECT_TIMEOUT && until.secured <= latest);
            attempts.borrow_mut().push(now.get() - start);
            now.set(until.connected);
            Err(Failure::Connect(ErrorKind::TimedOut.into()))
        };
        let error = in_turn(&addrs(count), start + HANDSHAKE_TIMEOUT, || now.get(), silence);
        (attempts.into_inner(), error.unwrap_err())
    }

    #[test]
    fn addresses_that_never_answer_share_one_deadline() {
        let seconds = |s: &[f64]| s.iter().map(|&s| Duration::from_secs_f64(s)).collect::<Vec<_>>();
        assert_eq!(silent_dial(1, Duration::ZERO).0, seconds(&[0.0]));
        assert_eq!(silent_dial(3, Duration::ZERO).0, seconds(&[0.0, 3.0, 6.0]));
        assert_eq!(silent_dial(4, Duration::ZERO).0, seconds(&[0.0, 2.5, 5.0, 7.5]));
        // A slow lookup leaves less time.
        assert_eq!(silent_dial(4, Duration::from_secs(8)).0, seconds(&[8.0, 8.5, 9.0, 9.5]));
    }

    #[test]
    fn dial_ends_at_its_deadline_with_addresses_left() {
        let start = crate::test_now();
        let now = Cell::new(start);
        let mut attempts = 0;
        // The kernel is late each time.
        let late = |_, _| -> Result<(), Failure> {
            attempts += 1;
            now.set(now.get() + Duration::from_secs(4));
            Err(refused())
        };
        let error = in_turn(&addrs(1000), start + HANDSHAKE_TIMEOUT, || now.get(), late).unwrap_err();
        assert_eq!((attempts, kind(&error)), (3, ErrorKind::ConnectionRefused));
    }

    #[test]
    fn lookup_that_outlasts_the_deadline_leads_to_no_connection_attempt() {
        for late in [HANDSHAKE_TIMEOUT, HANDSHAKE_TIMEOUT * 3] {
            let (attempts, error) = silent_dial(4, late);
            assert_eq!((attempts.len(), kind(&error)), (0, ErrorKind::TimedOut));
            assert!(error.to_string().contains("the lookup of the name"), "{error}");
        }
    }

    #[test]
    fn dial_ends_at_the_first_answer_or_an_interruption() {
        let (all, start) = (addrs(4), crate::test_now());
        let dial = |third: &dyn Fn() -> Result<u8, Failure>| {
            let connect = |addr, _| match all.iter().position(|&a| a == addr) {
                Some(2) => third(),
                Some(3) => panic!("the fourth was tried"),
                _ => Err(refused()),
            };
            in_turn(&all, start + HANDSHAKE_TIMEOUT, || start, connect)
        };
        assert_eq!(dial(&|| Ok(7)).unwrap(), 7);
        assert!(matches!(dial(&|| Err(Failure::Cancelled)), Err(Failure::Cancelled)));
    }

    #[test]
    fn failed_handshake_at_one_address_leads_to_the_next() {
        let (all, start) = (addrs(4), crate::test_now());
        let dial = |mut failures: Vec<Failure>| {
            let attempt = |_, _| if failures.is_empty() { Ok(()) } else { Err(failures.remove(0)) };
            in_turn(&all, start + HANDSHAKE_TIMEOUT, || start, attempt)
        };
        let own = || Failure::OwnAddress;
        assert!(dial(vec![own(), wrong_peer(), Failure::ClosedEarly]).is_ok());
        // If all fail, another peer than the expected one is the news, and this node itself is none.
        let wrong = dial(vec![refused(), wrong_peer(), refused(), own()]).unwrap_err();
        assert_eq!(wrong.to_string(), wrong_peer().to_string());
        assert_eq!(
            kind(&dial(vec![own(), refused(), own(), own()]).unwrap_err()),
            ErrorKind::ConnectionRefused
        );
        assert!(matches!(dial(vec![own(), own(), own(), own()]), Err(Failure::OwnAddress)));
        let known = || Failure::NothingNew;
        assert!(dial(vec![known(), known(), known()]).is_ok());
        assert!(matches!(dial(vec![known(), own(), known(), own()]), Err(Failure::NothingNew)));
        assert_eq!(
            kind(&dial(vec![known(), refused(), known(), known()]).unwrap_err()),
            ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn addresses_of_connected_peers_come_after_others() {
        let (lookups, now) = budgets();
        let all = addrs(6);
        let resolved = |skip: &[SocketAddr], turn| {
            let skip = Skip { addrs: skip.to_vec(), ..Skip::default() };
            let target = target("mesh.example:9", DialSource::User, skip);
            resolve(&target, &lookups, turn, now, |_, _| Ok(all.clone())).unwrap()
        };
        assert_eq!(resolved(&all[..2], 0), all[2..]);
        // One of them is tried last: a proxy may lead to another peer there.
        assert_eq!(resolved(&all[..3], 1), [&all[3..], &all[1..2]].concat());
        assert_eq!(resolved(&all[1..], 0), all[..2]);
        assert_eq!(resolved(&all, 2), all[2..3]);
    }

    #[test]
    fn name_leads_into_a_private_network_only_if_a_peer_of_one_told_it() {
        let (lookups, now) = budgets();
        let found: Vec<SocketAddr> = [
            "10.0.0.1:9",
            "192.168.1.1:9",
            "169.254.1.1:9",
            "[fd00::1]:9",
            "[::ffff:10.0.0.2]:9",
            "192.0.2.7:9",
        ]
        .map(|addr| addr.parse().unwrap())
        .into();
        let resolved = |private| {
            let target = target("node.example:9", DialSource::KnownPeer, Skip { private, ..Skip::default() });
            resolve(&target, &lookups, 0, now, |_, _| Ok(found.clone())).unwrap()
        };
        assert_eq!(resolved(true), found[5..]);
        assert!(resolved(false).contains(&found[0]));
    }

    #[test]
    fn name_server_is_not_asked_for_names_beyond_the_budget() {
        let (lookups, now) = budgets();
        let asked = Cell::new(0);
        let answer = || {
            asked.set(asked.get() + 1);
            Ok(addrs(1000))
        };
        let source = DialSource::UnknownPeer;
        let resolved = |_: &usize| {
            let resolved = resolve_with("liar.example:9", source, (&lookups, now), answer);
            resolved.is_ok_and(|addrs| addrs.len() == NAME_ADDRS_MAX)
        };
        let burst = PEER_LOOKUPS_BURST as usize;
        assert_eq!((0..1000).filter(resolved).count(), burst);
        assert_eq!(asked.get(), burst);
        // Neither IP addresses nor the user's names are concerned.
        assert!(resolve_with("10.9.0.1:9", source, (&lookups, now), || panic!("looked up")).is_ok());
        assert!(resolve_with("mesh.example:9", DialSource::User, (&lookups, now), || Ok(addrs(1))).is_ok());
    }

    #[test]
    fn slow_name_server_holds_few_lookups_for_peers_and_none_for_the_user() {
        fn nested(depth: usize, lookups: (&Lookups, Instant)) -> Result<usize, Failure> {
            let mut reached = Ok(depth);
            // While this lookup is under way the next one begins.
            resolve_with("slow.example:9", DialSource::KnownPeer, lookups, || {
                assert!(depth < PEER_LOOKUPS_AT_ONCE, "no lookup is refused");
                reached = nested(depth + 1, lookups).or(Ok(depth + 1));
                let user = resolve_with("mesh.example:9", DialSource::User, lookups, || Ok(addrs(1)));
                assert!(user.is_ok(), "{user:?}");
                Ok(addrs(1))
            })?;
            reached
        }
        let (lookups, now) = budgets();
        assert_eq!(nested(0, (&lookups, now)).unwrap(), PEER_LOOKUPS_AT_ONCE);
    }

    #[test]
    fn failed_lookup_gives_its_slot_back() {
        let (lookups, now) = budgets();
        for _ in 0..=PEER_LOOKUPS_AT_ONCE {
            let failed = resolve_with("gone.example:9", DialSource::KnownPeer, (&lookups, now), || {
                Err(ErrorKind::NotFound.into())
            });
            assert_eq!(kind(&failed.unwrap_err()), ErrorKind::NotFound);
        }
    }

    /// Other tests cover sources that need a bind.
    #[test]
    fn source_is_right_where_the_system_chooses_it() {
        let route = |ip: &str, to: &str| needs_bind(ip.parse().unwrap(), to.parse().unwrap());
        assert!(
            route("127.0.0.5", "127.0.0.5") && route("127.0.0.1", "127.0.0.5") && route("::1", "fd00::1")
        );
        assert!(!route("127.0.0.1", "::1") && !route("::1", "127.0.0.1"));
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert!(!needs_bind(ip, ip));
            // Not every machine has IPv6.
            let Ok(listener) = std::net::TcpListener::bind((ip, 0)) else { continue };
            let _dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), ip);
        }
    }
}
