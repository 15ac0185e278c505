//! The baselines: the cost of TLS alone on this machine now. The keys, suites and provider are the program's;
//! the connections run between two threads of one process over loopback, without any code of the program.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::Duration;

use p2p_gossip::internals::limits::SESSION_STACK_BYTES;
use p2p_gossip::internals::wire::{self, Message};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData, StreamOwned,
};

use crate::clock::{self, Spread, median};
use crate::credentials::{Credentials, client_config, server_config};
use crate::procfs;
use crate::stop::Stop;
use crate::system_under_test::embedded::TEXT;

/// The argument that makes this program the process whose memory is the baseline of sessions.
pub(crate) const MEMORY_ROLE: &str = "baseline-memory";
/// Connections in that process.
const MEMORY_PAIRS: u32 = 128;

/// The common part of all baselines: configurations made once, without resumption, like the program's.
struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    listener: TcpListener,
}

type Client = StreamOwned<ClientConnection, TcpStream>;
type Server = StreamOwned<ServerConnection, TcpStream>;

impl Tls {
    fn new() -> io::Result<Self> {
        let mut client = client_config(&Credentials::new());
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let mut server = server_config(&Credentials::new());
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), listener })
    }

    fn dial(&self) -> io::Result<Client> {
        let socket = TcpStream::connect(self.listener.local_addr()?)?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let tls = ClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)?;
        complete_handshake(tls, socket)
    }

    fn accept(&self) -> io::Result<Server> {
        let (socket, _) = self.listener.accept()?;
        let tls = ServerConnection::new(Arc::clone(&self.server)).map_err(io::Error::other)?;
        complete_handshake(tls, socket)
    }

    /// Runs both ends of a connection; the accepting end runs on a thread. Returns its result.
    fn pair<T: Send>(
        &self,
        server: impl FnOnce(Server) -> io::Result<T> + Send,
        client: impl FnOnce(Client) -> io::Result<()>,
    ) -> io::Result<T> {
        thread::scope(|scope| {
            let served = scope.spawn(|| server(self.accept()?));
            client(self.dial()?)?;
            served.join().map_err(|_| io::Error::other("the accepting end panicked"))?
        })
    }
}

fn complete_handshake<C, S>(mut tls: C, mut socket: TcpStream) -> io::Result<StreamOwned<C, TcpStream>>
where
    C: std::ops::DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    socket.set_nodelay(true)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    while tls.wants_write() {
        tls.write_tls(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

/// One mutual handshake, both ends together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    pub(crate) cpu_s: f64,
    /// From the call of connect until both ends are done.
    pub(crate) wall_s: f64,
}

impl Handshake {
    /// The median of several measurements; the caller passes at least one.
    pub(crate) fn median(of: &[Self]) -> Self {
        let part = |part: fn(&Self) -> f64| median(&of.iter().map(part).collect::<Vec<_>>());
        Self { cpu_s: part(|handshake| handshake.cpu_s), wall_s: part(|handshake| handshake.wall_s) }
    }
}

pub(crate) fn handshake(count: u32) -> Result<Handshake, Stop> {
    let tls = Tls::new()?;
    let run = |count: u32| -> io::Result<()> {
        thread::scope(|scope| {
            let served =
                scope.spawn(|| -> io::Result<()> { (0..count).try_for_each(|_| tls.accept().map(drop)) });
            for _ in 0..count {
                wait_end(tls.dial()?)?;
            }
            served.join().map_err(|_| io::Error::other("the accepting end panicked"))?
        })
    };
    // The first handshakes also pay for objects that are created once only.
    run(count.div_ceil(10))?;
    let (cpu, began) = (procfs::own_cpu()?, clock::now());
    run(count)?;
    let wall_s = (clock::now() - began).as_secs_f64() / f64::from(count);
    let cpu_s = (procfs::own_cpu()? - cpu).as_secs_f64() / f64::from(count);
    Ok(Handshake { cpu_s, wall_s })
}

/// Waits until the accepting end closes, which it does when its handshake is done.
fn wait_end(mut client: Client) -> io::Result<()> {
    match client.sock.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::other("nothing was to be sent")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

/// CPU seconds that the start of one waiting thread takes, while up to `count` threads exist. Each end of a
/// connection has such a thread.
pub(crate) fn thread_start(count: u32) -> Result<f64, Stop> {
    let all_there = Barrier::new(usize::try_from(count).map_err(io::Error::other)?);
    let (started, after) = (AtomicU64::new(0), OnceLock::new());
    let wait = || {
        if started.fetch_add(1, Ordering::SeqCst) + 1 == u64::from(count) {
            let _ = after.set(procfs::own_cpu());
        }
        all_there.wait();
    };
    let before = procfs::own_cpu()?;
    thread::scope(|scope| -> io::Result<()> {
        for number in 0..count {
            let session = thread::Builder::new().name(format!("session-{number}"));
            // If one thread did not start, the others would wait for it without end.
            session.stack_size(SESSION_STACK_BYTES).spawn_scoped(scope, wait).expect("a thread can be had");
        }
        Ok(())
    })?;
    let after = after.into_inner().ok_or_else(|| Stop::Failed("no thread started".to_owned()))??;
    Ok(after.saturating_sub(before).as_secs_f64() / f64::from(count))
}

/// The cost of one record of a heartbeat's size. The sender encrypts and writes it; a sleeping thread wakes up,
/// reads and decrypts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneRecord {
    pub(crate) cpu_s: f64,
    /// Wake-ups of threads for each record.
    pub(crate) wakeups: f64,
    /// From before it is encrypted until it is decrypted, in seconds.
    pub(crate) latency_s: Spread,
}

pub(crate) fn record(count: u32) -> Result<OneRecord, Stop> {
    let tls = Tls::new()?;
    let frame = heartbeat()?;
    // The ends share the time of sending through memory, outside TLS.
    let sent = AtomicU64::new(0);
    let play = |stream: &mut dyn Duplex, begins: bool| -> io::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut buffer = vec![0; frame.len()];
        if begins {
            send(stream, &frame, &sent)?;
        }
        for turn in 0..count {
            stream.read_exact(&mut buffer)?;
            times.push(nanoseconds().saturating_sub(sent.load(Ordering::SeqCst)) as f64 / 1e9);
            if !(begins && turn + 1 == count) {
                send(stream, &frame, &sent)?;
            }
        }
        Ok(times)
    };
    let mut times = Vec::new();
    let (mut cpu, mut sleeps) = (Duration::ZERO, 0);
    let own = std::process::id();
    let others = tls.pair(
        |mut server| {
            let times = play(&mut server, false)?;
            // The kernel forgets this thread's sleeps when the thread ends, so read them now.
            Ok((times, procfs::own_cpu()?, procfs::sleeps(own)?))
        },
        |mut client| {
            (cpu, sleeps) = (procfs::own_cpu()?, procfs::sleeps(own)?);
            times = play(&mut client, true)?;
            Ok(())
        },
    )?;
    let (server_times, cpu_after, sleeps_after) = others;
    times.extend(server_times);
    let records = f64::from(count) * 2.0;
    let latency_s = Spread::of(times).ok_or_else(|| Stop::Failed("no record was measured".to_owned()))?;
    let cpu_s = cpu_after.saturating_sub(cpu).as_secs_f64() / records;
    Ok(OneRecord { cpu_s, wakeups: sleeps_after.saturating_sub(sleeps) as f64 / records, latency_s })
}

/// The cost of the same record with cold caches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColdRecord {
    pub(crate) cpu_s: f64,
    /// From before it is encrypted until it is decrypted, in seconds.
    pub(crate) latency_s: Spread,
}

/// Opens 64 connections with a sleeping thread on each, and sends a record on one of them every 2 ms, as
/// heartbeats and pings arrive in a mesh.
pub(crate) fn cold_record(count: u32) -> Result<ColdRecord, Stop> {
    const CONNECTIONS: u32 = 64;
    const PAUSE: Duration = Duration::from_millis(2);
    let tls = Tls::new()?;
    let frame = heartbeat()?;
    let length = frame.len();
    let sent = AtomicU64::new(0);
    let mut times = Vec::new();
    let cpu = thread::scope(|scope| -> io::Result<Duration> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let accepted = scope.spawn(|| -> io::Result<Vec<f64>> {
                let (mut server, mut buffer, mut times) = (tls.accept()?, vec![0; length], Vec::new());
                while server.read_exact(&mut buffer).is_ok() {
                    times.push(nanoseconds().saturating_sub(sent.load(Ordering::SeqCst)) as f64 / 1e9);
                }
                Ok(times)
            });
            clients.push((tls.dial()?, accepted));
        }
        let cpu = procfs::own_cpu()?;
        for turn in 0..count {
            // A pause between records lets the receiving thread fall asleep again.
            thread::sleep(PAUSE);
            let client = &mut clients[(turn % CONNECTIONS) as usize].0;
            send(client, &frame, &sent)?;
        }
        thread::sleep(PAUSE);
        let cpu = procfs::own_cpu()?.saturating_sub(cpu);
        // A client that is dropped ends its accepting end.
        clients.into_iter().try_for_each(|(client, accepted)| {
            drop(client);
            times.extend(accepted.join().map_err(|_| io::Error::other("the accepting end panicked"))??);
            Ok::<(), io::Error>(())
        })?;
        Ok(cpu)
    })?;
    let latency_s = Spread::of(times).ok_or_else(|| Stop::Failed("no record was measured".to_owned()))?;
    Ok(ColdRecord { cpu_s: cpu.as_secs_f64() / f64::from(count), latency_s })
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

fn send(stream: &mut dyn Duplex, frame: &[u8], sent: &AtomicU64) -> io::Result<()> {
    sent.store(nanoseconds(), Ordering::SeqCst);
    stream.write_all(frame)?;
    stream.flush()
}

fn nanoseconds() -> u64 {
    u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX)
}

/// The frame that each node sends to each peer every second.
fn heartbeat() -> io::Result<wire::Frame> {
    let message = Message::Heartbeat { seq: 100, digest: u64::MAX / 3, interval_ms: 1000, rtt_us: 500 };
    wire::encode(&message).map_err(io::Error::other)
}

/// A short broadcast message.
fn message() -> io::Result<wire::Frame> {
    wire::encode(&Message::Broadcast { text: TEXT.to_owned() }).map_err(io::Error::other)
}

/// Throughput of short messages in one direction. Each frame is a record; one system call writes 16 KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    pub(crate) frames_per_s: f64,
    /// CPU time for each frame, of both ends together.
    pub(crate) cpu_s: f64,
}

pub(crate) fn throughput(time: Duration) -> Result<Throughput, Stop> {
    const BATCH_BYTES: usize = 16 * 1024;
    let tls = Tls::new()?;
    let frame = message()?;
    let (cpu, began) = (procfs::own_cpu()?, clock::now());
    let mut sent = 0_u64;
    let received = tls.pair(
        |mut server| io::copy(&mut server, &mut io::sink()),
        |mut client| {
            while clock::now() - began < time {
                for _ in 0..BATCH_BYTES.div_ceil(frame.len()) {
                    client.conn.writer().write_all(&frame)?;
                    sent += 1;
                }
                client.flush()?;
            }
            client.conn.send_close_notify();
            client.flush()
        },
    )?;
    if received != sent * frame.len() as u64 {
        return Err(Stop::Failed(format!("{sent} frames were sent, but {received} bytes arrived")));
    }
    let took_s = (clock::now() - began).as_secs_f64();
    let cpu_s = (procfs::own_cpu()? - cpu).as_secs_f64() / sent as f64;
    Ok(Throughput { frames_per_s: sent as f64 / took_s, cpu_s })
}

/// Bytes of memory of one end of a connection: rustls and a sleeping thread. Half of the ends dialled, half
/// accepted. The handshake ran on the same thread, so its stack counts as well.
pub(crate) fn session_bytes() -> Result<f64, Stop> {
    let output = Command::new(std::env::current_exe()?).arg(MEMORY_ROLE).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| {
        Stop::Failed(format!("the memory baseline: {}", String::from_utf8_lossy(&output.stderr).trim()))
    })
}

/// Runs in the process that [`session_bytes`] starts: prints the bytes of one end.
pub(crate) fn print_session_bytes() -> Result<(), Box<dyn std::error::Error>> {
    let tls = Arc::new(Tls::new()?);
    let own = std::process::id();
    let (done, finished) = crossbeam_channel::unbounded::<io::Result<()>>();
    let start = |count: u32| -> io::Result<()> {
        for is_client in (0..count).flat_map(|_| [true, false]) {
            let (tls, done) = (Arc::clone(&tls), done.clone());
            thread::Builder::new().stack_size(SESSION_STACK_BYTES).spawn(move || {
                let run = || -> io::Result<()> {
                    if is_client { idle(tls.dial()?, &done) } else { idle(tls.accept()?, &done) }
                };
                if let Err(error) = run() {
                    let _ = done.send(Err(error));
                }
            })?;
        }
        (0..2 * count).try_for_each(|_| finished.recv().map_err(io::Error::other)?)
    };
    // These connections create the objects that exist once only, before the first measurement.
    start(4)?;
    let before = procfs::memory(own)?.rss;
    start(MEMORY_PAIRS)?;
    let after = procfs::memory(own)?.rss;
    println!("{}", (after - before) as f64 / f64::from(2 * MEMORY_PAIRS));
    // The threads still wait; they end with the process.
    Ok(())
}

/// Sends one heartbeat, receives one, then waits for another until the process ends.
fn idle(mut stream: impl Duplex, done: &crossbeam_channel::Sender<io::Result<()>>) -> io::Result<()> {
    let frame = heartbeat()?;
    let mut buffer = vec![0; frame.len()];
    stream.write_all(&frame)?;
    stream.read_exact(&mut buffer)?;
    let _ = done.send(Ok(()));
    stream.read_exact(&mut buffer)
}
