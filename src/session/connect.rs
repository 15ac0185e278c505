//! Opens a TCP connection from a chosen source address; a waker can interrupt the attempt.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{bind, connect, sockopt};

use super::context::Context;
use super::link::poll_until;
use super::lookups::Lookups;
use crate::limits::{CONNECT_TIMEOUT, NAME_ADDRS_MAX};
use crate::mesh::DialSource;
use crate::net::addr::{DialAddr, LocalIp};
use crate::net::socket;
use crate::net::waker::Waker;

/// The target of a dial, and its source address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    pub(super) addr: &'a DialAddr,
    pub(super) source: DialSource,
    /// Source address of the connection; `None` lets the system choose.
    pub(super) from: Option<LocalIp>,
}

/// Resolves the address and connects to the first of its chosen IP addresses that answers before the
/// deadline. `interrupted` is called after each wake; if it returns true, the attempt ends.
///
/// # Errors
/// The error of the last IP address tried, or of the lookup; `Interrupted` if the attempt was ended.
pub(super) fn open(
    route: Route<'_>,
    context: &Context,
    waker: &Waker,
    deadline: Instant,
    mut interrupted: impl FnMut() -> bool,
) -> io::Result<(TcpStream, SocketAddr)> {
    // The system's resolver may block for an unbounded time. No other session waits for it.
    let look_up = |host: &str, port| Ok((host, port).to_socket_addrs().map_err(not_found)?.collect());
    let turn = fastrand::usize(..);
    let addrs = resolve(route, &context.lookups, turn, Instant::now(), look_up)?;
    connect_in_turn(&addrs, deadline, Instant::now, |addr, deadline| {
        if interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        open_one(addr, route.from, waker, deadline, &mut interrupted)
    })
}

/// Returns the IP addresses that this dial tries. Looks a name up if the budget of its source allows that.
fn resolve(
    route: Route<'_>,
    lookups: &Lookups,
    turn: usize,
    now: Instant,
    look_up: impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>>,
) -> io::Result<Vec<SocketAddr>> {
    match route.addr {
        DialAddr::Socket(addr) => Ok(vec![*addr]),
        DialAddr::LinkLocal { ip, interface, port } => {
            Ok(vec![SocketAddrV6::new(*ip, *port, 0, interface.index()?).into()])
        }
        DialAddr::Name { host, port } => {
            let _permit = lookups.begin(route.source, now)?;
            let found = look_up(host.as_str(), *port)?;
            let loopback_too = !route.source.is_from_peer() || host.is_loopback();
            Ok(choose(found, loopback_too, turn))
        }
    }
}

/// Chooses the IP addresses of a name that one dial tries: at most [`NAME_ADDRS_MAX`] dialable ones, in the
/// order of the system's resolver (RFC 6724). If there are more, the first is always tried and the others take
/// turns: within `n` successive turns each of `n` addresses is tried.
///
/// Loopback addresses are dropped without `loopback_too`: a name from a peer leads to this machine only if it
/// is a loopback name, because the owner of another name can point it anywhere at any time.
fn choose(found: Vec<SocketAddr>, loopback_too: bool, turn: usize) -> Vec<SocketAddr> {
    let usable = found.into_iter().map(DialAddr::from);
    let usable = usable.filter(|addr| addr.is_dialable() && (loopback_too || !addr.is_loopback()));
    let mut addrs: Vec<SocketAddr> = usable.filter_map(|addr| addr.socket()).collect();
    if addrs.len() > NAME_ADDRS_MAX {
        let others = addrs.split_off(1);
        let start = turn % others.len();
        let mut chosen: Vec<usize> = (start..).take(NAME_ADDRS_MAX - 1).map(|at| at % others.len()).collect();
        chosen.sort_unstable();
        addrs.extend(chosen.into_iter().map(|at| others[at]));
    }
    addrs
}

/// Connects to the first of these addresses that answers, all within one deadline. Each address gets an equal
/// share of the remaining time, so a silent address takes no time from the last one.
fn connect_in_turn<T>(
    addrs: &[SocketAddr],
    deadline: Instant,
    mut clock: impl FnMut() -> Instant,
    mut connect: impl FnMut(SocketAddr, Instant) -> io::Result<T>,
) -> io::Result<(T, SocketAddr)> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address that may be dialled");
    for (left, &addr) in (1..=addrs.len()).rev().zip(addrs) {
        let now = clock();
        if now >= deadline {
            if left == addrs.len() {
                last = io::Error::new(ErrorKind::TimedOut, "no time to connect after the lookup of the name");
            }
            break;
        }
        let share = deadline.duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        match connect(addr, now + share.min(CONNECT_TIMEOUT)) {
            Ok(stream) => return Ok((stream, addr)),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
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

fn open_one(
    addr: SocketAddr,
    source: Option<LocalIp>,
    waker: &Waker,
    deadline: Instant,
    interrupted: &mut impl FnMut() -> bool,
) -> io::Result<TcpStream> {
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
    ) -> io::Result<Vec<SocketAddr>> {
        let addr = name.parse().unwrap();
        let route = Route { addr: &addr, source, from: None };
        resolve(route, lookups, 0, now, |_, _| look_up())
    }

    #[test]
    fn name_from_a_peer_leads_to_this_machine_only_if_it_is_a_loopback_name() {
        let here: Vec<SocketAddr> =
            ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.2]:9"].map(|addr| addr.parse().unwrap()).into();
        let (lookups, now) = budgets();
        let resolved =
            |name, source| resolve_with(name, source, (&lookups, now), || Ok(here.clone())).unwrap();
        for source in [DialSource::KnownPeer, DialSource::UnknownPeer] {
            assert_eq!(resolved("example.org:9", source), []);
            assert_eq!(resolved("localhost:9", source).len(), here.len());
        }
        assert_eq!(resolved("example.org:9", DialSource::User).len(), here.len());
    }

    #[test]
    fn undialable_addresses_are_not_tried() {
        let found =
            ["0.0.0.0:9", "224.0.0.1:9", "10.0.0.1:0", "10.0.0.1:9"].map(|addr| addr.parse().unwrap());
        assert_eq!(choose(found.into(), true, 0), [found[3]]);
        // They take no slot of a dialable address.
        let many = [&[found[0]; 50][..], &addrs(NAME_ADDRS_MAX)].concat();
        assert_eq!(choose(many, true, 7), addrs(NAME_ADDRS_MAX));
    }

    #[test]
    fn few_addresses_are_all_tried_in_the_order_of_the_resolver() {
        for count in 0..=NAME_ADDRS_MAX {
            for turn in [0, 1, 2, usize::MAX] {
                assert_eq!(choose(addrs(count), true, turn), addrs(count));
            }
        }
    }

    #[test]
    fn many_addresses_take_turns_and_keep_the_order_of_the_resolver() {
        for count in [NAME_ADDRS_MAX + 1, 6, 1000] {
            let all = addrs(count);
            let mut tried = BTreeSet::new();
            for turn in 0..count {
                let chosen = choose(all.clone(), true, turn);
                assert_eq!((chosen.len(), chosen[0]), (NAME_ADDRS_MAX, all[0]));
                assert!(chosen.is_sorted(), "{chosen:?}");
                tried.extend(chosen);
            }
            assert_eq!(tried.len(), count);
        }
        assert_eq!(choose(addrs(6), true, usize::MAX).len(), NAME_ADDRS_MAX);
    }

    #[test]
    fn last_of_six_addresses_is_reached_within_a_few_dials() {
        let all = addrs(6);
        for first_turn in 0..all.len() {
            let reached = |turn| choose(all.clone(), true, turn).contains(&all[5]);
            assert!((first_turn..first_turn + 3).any(reached), "from turn {first_turn}");
        }
    }

    /// Dials addresses that never answer, on the test's own clock, `begun` after the dial began. Returns the
    /// start time of each attempt, and the final error.
    fn silent_dial(count: usize, begun: Duration) -> (Vec<Duration>, io::Error) {
        let start = crate::test_now();
        let (now, attempts) = (Cell::new(start + begun), RefCell::new(Vec::new()));
        let silence = |_, until: Instant| -> io::Result<()> {
            assert!(until <= now.get() + CONNECT_TIMEOUT && until <= start + HANDSHAKE_TIMEOUT);
            attempts.borrow_mut().push(now.get() - start);
            now.set(until);
            Err(ErrorKind::TimedOut.into())
        };
        let error = connect_in_turn(&addrs(count), start + HANDSHAKE_TIMEOUT, || now.get(), silence);
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
        let late = |_, _| -> io::Result<()> {
            attempts += 1;
            now.set(now.get() + Duration::from_secs(4));
            Err(ErrorKind::ConnectionRefused.into())
        };
        let error = connect_in_turn(&addrs(1000), start + HANDSHAKE_TIMEOUT, || now.get(), late).unwrap_err();
        assert_eq!((attempts, error.kind()), (3, ErrorKind::ConnectionRefused));
    }

    #[test]
    fn lookup_that_outlasts_the_deadline_leads_to_no_connection_attempt() {
        for late in [HANDSHAKE_TIMEOUT, HANDSHAKE_TIMEOUT * 3] {
            let (attempts, error) = silent_dial(4, late);
            assert_eq!((attempts.len(), error.kind()), (0, ErrorKind::TimedOut));
            assert!(error.to_string().contains("the lookup of the name"), "{error}");
        }
    }

    #[test]
    fn dial_ends_at_the_first_answer_or_an_interruption() {
        let (all, start) = (addrs(4), crate::test_now());
        let dial = |third: &dyn Fn() -> io::Result<u8>| {
            let connect = |addr, _| match all.iter().position(|&a| a == addr) {
                Some(2) => third(),
                Some(3) => panic!("the fourth was tried"),
                _ => Err(ErrorKind::ConnectionRefused.into()),
            };
            connect_in_turn(&all, start + HANDSHAKE_TIMEOUT, || start, connect)
        };
        assert_eq!(dial(&|| Ok(7)).unwrap(), (7, all[2]));
        let interrupted = dial(&|| Err(ErrorKind::Interrupted.into())).unwrap_err();
        assert_eq!(interrupted.kind(), ErrorKind::Interrupted);
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
        fn nested(depth: usize, lookups: (&Lookups, Instant)) -> io::Result<usize> {
            let mut reached = Ok(depth);
            // While this lookup is under way the next one begins.
            resolve_with("slow.example:9", DialSource::KnownPeer, lookups, || {
                assert!(depth < PEER_LOOKUPS_AT_ONCE, "no lookup is refused");
                reached = nested(depth + 1, lookups).or(Ok(depth + 1));
                let user = resolve_with("mesh.example:9", DialSource::User, lookups, || Ok(addrs(1)));
                assert!(user.is_ok(), "{user:?}");
                Ok(Vec::new())
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
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::NotFound);
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
