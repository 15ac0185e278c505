//! `make bench`: the program beside its baselines.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2p_gossip::internals::limits::{FRAMES_PER_SECOND, HEARTBEAT, PERIOD_DEFAULT, TIMEOUT};

use crate::baseline::{self, ColdRecord, Handshake, OneRecord, Throughput};
use crate::circuits;
use crate::clock::{self, median};
use crate::cluster::Cluster;
use crate::machine::cores;
use crate::measure::{self, Death, MemoryANode, pairs};
use crate::options::{LOAD, Options};
use crate::procfs;
use crate::report::{Report, progress};
use crate::stop::{Signals, Stop};
use crate::system_under_test::SystemUnderTest as _;
use crate::system_under_test::ours::Ours;
use crate::table::{NOTHING, bytes, ratio, time};
use crate::traffic;

/// Number of measured starts of a node alone: each takes some milliseconds, the first ones take longer.
const STARTS: usize = 25;
/// Number of measured starts of threads: about as many as 45 nodes have ends of sessions.
const THREADS: u32 = 2000;
/// Number of busy loops for each core, under load.
const LOOPS_A_CORE: u32 = 2;

/// One run of the benchmark: its settings and its results so far.
struct Run<'a> {
    options: &'a Options,
    signals: &'a Signals,
    ours: Ours,
    baselines: Baselines,
    /// CPU time of a node that meets no peer.
    start_cpu_s: f64,
    report: Report,
    /// Memory of a node by number of nodes.
    memory: Vec<(usize, MemoryANode)>,
}

struct Baselines {
    handshake: Handshake,
    thread_cpu_s: f64,
    record: OneRecord,
    cold_record: ColdRecord,
    throughput: Throughput,
    session_bytes: f64,
}

impl Baselines {
    fn measure(options: &Options) -> Result<Self, Stop> {
        progress("baselines: TLS alone");
        let time_ms = if options.quick { 500 } else { 2000 };
        Ok(Self {
            handshake: baseline::handshake(options.handshakes())?,
            thread_cpu_s: baseline::thread_start(THREADS)?,
            record: baseline::record(options.records())?,
            cold_record: baseline::cold_record(options.records() / 10)?,
            throughput: baseline::throughput(Duration::from_millis(time_ms))?,
            session_bytes: baseline::session_bytes()?,
        })
    }

    fn explain(&self) -> String {
        let Self { handshake, thread_cpu_s, record, cold_record, throughput, session_bytes } = self;
        format!(
            "Baselines, measured with TLS alone between two threads over loopback at the beginning of this run, those of handshakes \
             also before each formation and those of records before each size: one mutual handshake {} of CPU \
             and {} of time, both ends together; the start of a thread {} of CPU; one record of a heartbeat's size {} of CPU in a row and {} now and then, {} on its way \
             in a row and {} now and then, worst {} of {}; \
             {:.0} frames a second in batches; {} a connection's end with its thread.",
            time(handshake.cpu_s),
            time(handshake.wall_s),
            time(*thread_cpu_s),
            time(record.cpu_s),
            time(cold_record.cpu_s),
            time(record.latency_s.p50),
            time(cold_record.latency_s.p50),
            time(record.latency_s.max),
            record.latency_s.count,
            throughput.frames_per_s,
            bytes(*session_bytes),
        )
    }
}

/// Measures the figures that the options select.
pub(crate) fn run(options: &Options, signals: &Signals) -> Result<Report, Stop> {
    let ours = Ours::quiet(options.program.clone());
    let version = ours.version().map_err(Stop::Failed)?;
    let mut report = Report::new(&[version], &["figure", "nodes", "ours", "baseline", "ratio", "reach"]);
    let baselines = Baselines::measure(options)?;
    report.note(baselines.explain());
    let mut run = Run { options, signals, ours, baselines, start_cpu_s: 0.0, report, memory: Vec::new() };
    if options.wants("formation") {
        run.start_alone()?;
    }
    if ["formation", "join", "idle", "memory", "death"].iter().any(|figure| options.wants(figure)) {
        for count in options.sizes() {
            run.size(count)?;
        }
    }
    run.session_memory();
    if options.wants("latency") {
        run.latency()?;
    }
    if options.wants("throughput") {
        run.throughput()?;
    }
    if options.wants("heal") {
        run.heal()?;
    }
    if options.wants("circuits") {
        run.circuits()?;
    }
    if options.wants(LOAD) {
        run.load()?;
    }
    run.program()?;
    Ok(run.report)
}

impl Run<'_> {
    fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.report.table.row(cells);
    }

    /// The cost of a node before it meets a peer.
    fn start_alone(&mut self) -> Result<(), Stop> {
        let mut costs = Vec::new();
        for _ in 0..STARTS {
            let mut cluster = Cluster::new(&self.ours, self.signals)?;
            let began = clock::now();
            let ready = cluster.form(1, measure::PATIENCE)?;
            costs.push(((ready - began).as_secs_f64(), cluster.cpu()?.as_secs_f64()));
        }
        let of = |part: fn(&(f64, f64)) -> f64| median(&costs.iter().map(part).collect::<Vec<_>>());
        self.start_cpu_s = of(|cost| cost.1);
        self.row(["start until it listens, wall".to_owned(), "1".to_owned(), time(of(|cost| cost.0))]);
        self.row(["start until it listens, CPU".to_owned(), "1".to_owned(), time(self.start_cpu_s)]);
        Ok(())
    }

    /// Measures the figures that depend on the number of nodes, at one number.
    fn size(&mut self, count: usize) -> Result<(), Stop> {
        progress(&format!("{count} nodes: formation"));
        let ours = self.ours.clone();
        let rounds = if self.options.wants("formation") { self.options.rounds_of_short() } else { 1 };
        if self.options.wants("idle") {
            self.baselines.record = baseline::record(self.options.records())?;
        }
        let handshakes = self.options.handshakes();
        // Baselines and formations alternate, because the speed of a machine, above all a virtual one, changes
        // within seconds.
        let mut baselines = Vec::new();
        let baseline = || baseline::handshake(handshakes).map(|handshake| baselines.push(handshake));
        let formed = measure::formation(&ours, self.signals, count, rounds, baseline);
        self.baselines.handshake = Handshake::median(&baselines);
        let figure = format!("formation of {count} nodes");
        let Some((mut cluster, formation)) = self.report.or_note(&figure, formed)? else {
            return Ok(());
        };
        if self.options.wants("formation") {
            self.formation(count, formation);
        }
        if self.options.wants("idle") {
            progress(&format!("{count} nodes: idle"));
            let (window, rounds) = (self.options.window(), self.options.rounds());
            let idle = measure::idle(&mut cluster, window, rounds);
            if let Some(idle) = self.report.or_note(&format!("idle, {count} nodes"), idle)? {
                self.idle(count, idle);
            }
        }
        if self.options.wants("memory") {
            let memory = measure::memory(&cluster)?;
            self.memory(count, memory);
        }
        // No node has died so far.
        self.row([
            "declared dead though alive".to_owned(),
            count.to_string(),
            cluster.losses.to_string(),
            "0".to_owned(),
            NOTHING.to_owned(),
            "0".to_owned(),
        ]);
        if self.options.wants("death") || self.options.wants("join") {
            progress(&format!("{count} nodes: deaths and joins"));
            let done = self.deaths_and_joins(&mut cluster, count);
            self.report.or_note(&format!("deaths and joins, {count} nodes"), done)?;
        }
        Ok(())
    }

    fn formation(&mut self, count: usize, formation: measure::Formation) {
        let cpu_baseline = pairs(count) * self.baselines.handshake.cpu_s;
        let wall_baseline = cpu_baseline / f64::from(cores());
        let n = count.to_string();
        self.row([
            "formation, wall".to_owned(),
            n.clone(),
            time(formation.wall_s),
            time(wall_baseline),
            ratio(formation.wall_s, wall_baseline),
            if matches!(count, 32 | 100) { "Serf's".to_owned() } else { NOTHING.to_owned() },
        ]);
        self.row([
            "formation, CPU".to_owned(),
            n.clone(),
            time(formation.cpu_s),
            time(cpu_baseline),
            ratio(formation.cpu_s, cpu_baseline),
            if count == 64 { "≤ 1.5".to_owned() } else { NOTHING.to_owned() },
        ]);
        self.row([
            "formation, CPU a pair".to_owned(),
            n.clone(),
            time(formation.cpu_s / pairs(count)),
            time(self.baselines.handshake.cpu_s),
            ratio(formation.cpu_s, cpu_baseline),
            "same at all N, ± 20 %".to_owned(),
        ]);
        // The cost of the starts grows with the nodes, not with their pairs, and dominates in a small mesh.
        let without_starts = formation.cpu_s - self.start_cpu_s * count as f64;
        self.row([
            "formation, CPU a pair without starts".to_owned(),
            n.clone(),
            time(without_starts / pairs(count)),
            time(self.baselines.handshake.cpu_s),
            ratio(without_starts, cpu_baseline),
        ]);
        // The least cost of a mesh of processes with a thread for each end of a connection.
        let threads = 2.0 * pairs(count) * self.baselines.thread_cpu_s;
        let shape = cpu_baseline + threads + self.start_cpu_s * count as f64;
        self.row([
            "formation, CPU ÷ handshakes, threads, starts".to_owned(),
            n.clone(),
            time(formation.cpu_s),
            time(shape),
            ratio(formation.cpu_s, shape),
        ]);
        self.row([
            "formation, connections a pair".to_owned(),
            n,
            format!("{:.3}", formation.connections_a_pair),
            "1".to_owned(),
            ratio(formation.connections_a_pair, 1.0),
            if count >= 64 { "≤ 1.1".to_owned() } else { NOTHING.to_owned() },
        ]);
    }

    fn idle(&mut self, count: usize, idle: measure::Idle) {
        let record = self.baselines.record;
        // In each interval a node receives a heartbeat from each other node, and sends one to each.
        let messages_a_node = (count - 1) as f64 / HEARTBEAT.as_secs_f64();
        let (cpu, wakeups) = (idle.cpu_a_node / messages_a_node, idle.wakeups_a_node / messages_a_node);
        let n = count.to_string();
        self.row([
            "idle, CPU a node".to_owned(),
            n.clone(),
            format!("{:.3} %", idle.cpu_a_node * 100.0),
            format!("{:.3} %", messages_a_node * record.cpu_s * 100.0),
            ratio(cpu, record.cpu_s),
            if count == 32 { "Serf's".to_owned() } else { NOTHING.to_owned() },
        ]);
        self.row([
            "idle, CPU a delivered message".to_owned(),
            n.clone(),
            time(cpu),
            time(record.cpu_s),
            ratio(cpu, record.cpu_s),
            if count == 64 { "≤ 2.0".to_owned() } else { NOTHING.to_owned() },
        ]);
        let cold = self.baselines.cold_record.cpu_s;
        self.row([
            "idle, the same ÷ a record now and then".to_owned(),
            n.clone(),
            time(cpu),
            time(cold),
            ratio(cpu, cold),
        ]);
        self.row([
            "idle, wake-ups a delivered message".to_owned(),
            n,
            format!("{wakeups:.2}"),
            format!("{:.2}", record.wakeups),
            ratio(wakeups, record.wakeups),
        ]);
    }

    fn memory(&mut self, count: usize, memory: MemoryANode) {
        let n = count.to_string();
        let reach = if count == 32 { "≤ 9 MB" } else { NOTHING };
        let nothing = || NOTHING.to_owned();
        self.row([
            "memory a node, RSS".to_owned(),
            n.clone(),
            bytes(memory.rss),
            nothing(),
            nothing(),
            reach.to_owned(),
        ]);
        self.row(["memory a node, PSS".to_owned(), n, bytes(memory.pss)]);
        self.memory.push((count, memory));
    }

    /// The memory of one more session: the difference between the largest and the smallest mesh.
    fn session_memory(&mut self) {
        let (Some(&(few, little)), Some(&(many, much))) = (self.memory.first(), self.memory.last()) else {
            return;
        };
        if few < many {
            let session = (much.rss - little.rss) / (many - few) as f64;
            let baseline = self.baselines.session_bytes;
            self.row([
                "memory a session".to_owned(),
                format!("{few} … {many}"),
                bytes(session),
                bytes(baseline),
                ratio(session, baseline),
                "≤ 1.20".to_owned(),
            ]);
        }
    }

    fn deaths_and_joins(&mut self, cluster: &mut Cluster<'_>, count: usize) -> Result<(), Stop> {
        let (mut closed, mut joins, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.options.rounds_of_short() {
            closed.push(measure::death(cluster, Death::Closed)?);
            joins.push(measure::join(cluster)?);
        }
        let nothing = || NOTHING.to_owned();
        let n = count.to_string();
        if self.options.wants("join") {
            let baseline = (count - 1) as f64 * self.baselines.handshake.wall_s;
            let took = median(&joins);
            self.row([
                "join of one more".to_owned(),
                n.clone(),
                time(took),
                time(baseline),
                ratio(took, baseline),
            ]);
        }
        if self.options.wants("death") {
            let reach = if count == 100 { "≤ 100 ms" } else { NOTHING };
            let took = time(median(&closed));
            self.row(["death, closed".to_owned(), n.clone(), took, nothing(), nothing(), reach.to_owned()]);
            for _ in 0..self.options.rounds() {
                silent.push(measure::death(cluster, Death::Silent)?);
                measure::join(cluster)?;
            }
            let (took, baseline) = (median(&silent), TIMEOUT.as_secs_f64());
            let reach = if count == 100 { "≤ timeout + 0.3 s" } else { NOTHING };
            self.row([
                "death, silent".to_owned(),
                n,
                time(took),
                time(baseline),
                ratio(took, baseline),
                reach.to_owned(),
            ]);
        }
        Ok(())
    }

    fn latency(&mut self) -> Result<(), Stop> {
        let count = self.options.size_for_latency();
        progress(&format!("{count} nodes: latency of pings"));
        let ours = self.ours.clone().with_period(PERIOD_DEFAULT.as_secs_f64());
        let window = if self.options.quick { 2 } else { 6 } * PERIOD_DEFAULT;
        let spread = traffic::latency(ours, self.signals, count, window);
        let Some(spread) = self.report.or_note("latency", spread)? else {
            return Ok(());
        };
        let baseline = self.baselines.record.latency_s;
        let parts = [
            ("p50", spread.p50, baseline.p50, NOTHING),
            ("p99", spread.p99, baseline.p99, if count == 64 { "≤ 5" } else { NOTHING }),
            ("max", spread.max, baseline.max, NOTHING),
        ];
        for (part, ours, baseline, reach) in parts {
            let (figure, n) = (format!("ping latency, {part}"), count.to_string());
            self.row([figure, n, time(ours), time(baseline), ratio(ours, baseline), reach.to_owned()]);
        }
        let cold = self.baselines.cold_record.latency_s;
        for (part, ours, cold) in [("p50", spread.p50, cold.p50), ("p99", spread.p99, cold.p99)] {
            let figure = format!("ping latency, {part} ÷ a record now and then");
            self.row([figure, count.to_string(), time(ours), time(cold), ratio(ours, cold)]);
        }
        self.report.note(format!(
            "Ping latency: {} pings, from the coordinator's decision to send until the event is read from the receiver's \
             stdout; every node pings every other each {} s.",
            spread.count,
            PERIOD_DEFAULT.as_secs()
        ));
        Ok(())
    }

    fn throughput(&mut self) -> Result<(), Stop> {
        progress("throughput");
        let window = self.options.window();
        let baseline = self.baselines.throughput;
        for count in [2, traffic::FAN] {
            let taken = traffic::broadcast(self.ours.clone(), self.signals, count, window);
            let receivers = count - 1;
            let Some(taken) = self.report.or_note(&format!("throughput, 1 → {receivers}"), taken)? else {
                continue;
            };
            let n = count.to_string();
            self.row([
                format!("messages a second, 1 → {receivers}"),
                n.clone(),
                format!("{:.0}", taken.frames_per_s),
                format!("{:.0}", baseline.frames_per_s),
                NOTHING.to_owned(),
                format!("limit {}", FRAMES_PER_SECOND as usize * receivers),
            ]);
            self.row([
                "CPU a message taken and shown".to_owned(),
                n,
                time(taken.cpu_s),
                time(baseline.cpu_s),
                ratio(taken.cpu_s, baseline.cpu_s),
            ]);
        }
        Ok(())
    }

    /// What a carrier pays, and how fast data passes through one, beside direct connections.
    fn circuits(&mut self) -> Result<(), Stop> {
        progress("circuits");
        let rest = circuits::rest(&self.ours, self.signals, self.options.window());
        let Some(Some(rest)) = self.report.or_note("circuits at rest", rest)? else {
            return Ok(());
        };
        let n = circuits::STAR.to_string();
        // Each pair sends a heartbeat and its answer in each interval.
        let carried = 2.0 * circuits::CIRCUITS as f64 / HEARTBEAT.as_secs_f64();
        let cpu_s = (rest.carried.cpu_s - rest.direct.cpu_s) / carried;
        let record = self.baselines.cold_record.cpu_s;
        let figure = "carrier, CPU a carried heartbeat".to_owned();
        self.row([figure, n.clone(), time(cpu_s), time(record), ratio(cpu_s, record)]);
        let circuit = (rest.carried.memory_bytes - rest.direct.memory_bytes) / circuits::CIRCUITS as f64;
        self.row(["carrier, memory a circuit".to_owned(), n, bytes(circuit)]);

        let (burst, socat) = (circuits::burst(&self.ours, self.signals), circuits::socat());
        let Some(Some(burst)) = self.report.or_note("burst through a circuit", burst)? else {
            return Ok(());
        };
        let circuits::Both { direct, carried } = burst;
        self.row([
            "10 MB through a circuit, beside a direct connection".to_owned(),
            "3".to_owned(),
            format!("{:.0} MB/s", carried.mb_per_s),
            format!("{:.0} MB/s", direct.mb_per_s),
            ratio(carried.mb_per_s, direct.mb_per_s),
            "50 MB/s".to_owned(),
        ]);
        let all = "the same, CPU of all three nodes".to_owned();
        let (ours, baseline) = (carried.cpu_s, direct.cpu_s);
        self.row([all, "3".to_owned(), time(ours), time(baseline), ratio(ours, baseline)]);
        if let Some(Some(socat)) = self.report.or_note("socat", socat)? {
            let figure = "carrier, CPU for 10 MB carried, beside socat".to_owned();
            let cpu_s = carried.carrier_cpu_s - direct.carrier_cpu_s;
            self.row([figure, "3".to_owned(), time(cpu_s), time(socat), ratio(cpu_s, socat)]);
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Stop> {
        progress("healing of a partition");
        let (partition, rounds) = (self.options.partition(), self.options.rounds());
        let healed = traffic::heal(&self.ours, self.signals, partition, rounds);
        match self.report.or_note("heal", healed)? {
            Some(Some(took)) => {
                let figure = format!("heal, 4|4 for {} s", partition.as_secs());
                let nothing = || NOTHING.to_owned();
                self.row([
                    figure,
                    traffic::SPLIT.to_string(),
                    time(took),
                    nothing(),
                    nothing(),
                    "≤ 1 s".to_owned(),
                ]);
            }
            Some(None) => self.report.note("heal: skipped; it needs root, iproute2 and nftables"),
            None => {}
        }
        Ok(())
    }

    /// Counts nodes that are declared dead while the machine is overloaded.
    fn load(&mut self) -> Result<(), Stop> {
        let (count, time) = (self.options.size_under_load(), self.options.load());
        progress(&format!("{count} nodes under load for {} s", time.as_secs()));
        let loops = LOOPS_A_CORE * cores();
        let losses = traffic::losses_under_load(&self.ours, self.signals, count, loops, time);
        let figure = format!("declared dead though alive, {loops} busy loops for {} s", time.as_secs());
        if let Some(losses) = self.report.or_note(&figure, losses)? {
            let nothing = NOTHING.to_owned();
            let (n, losses) = (count.to_string(), losses.to_string());
            self.row([figure, n, losses, "0".to_owned(), nothing, "0".to_owned()]);
        }
        Ok(())
    }

    /// The size of the program, and the cost of a build if the options ask for it.
    fn program(&mut self) -> Result<(), Stop> {
        let size = fs::metadata(&self.options.program)?.len() as f64;
        self.row(["size of the program".to_owned(), NOTHING.to_owned(), bytes(size)]);
        if self.options.build {
            progress("a clean release build");
            let built = build();
            if let Some((cpu, wall)) = self.report.or_note("build", built)? {
                self.row(["clean release build, CPU".to_owned(), NOTHING.to_owned(), time(cpu)]);
                self.row(["clean release build, wall".to_owned(), NOTHING.to_owned(), time(wall)]);
            }
        }
        Ok(())
    }
}

/// CPU and wall seconds of a release build into an empty directory.
fn build() -> Result<(f64, f64), Stop> {
    let dir = tempfile::Builder::new().prefix("p2p-gossip-bench-").tempdir()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (cpu, began) = (procfs::ended_children_cpu()?, clock::now());
    let mut command = Command::new(cargo);
    // Offline: the dependencies are present, because this program was built with them.
    command.args(["build", "--release", "--locked", "--offline", "--quiet", "--target-dir"]).arg(dir.path());
    let status = command.env_remove("CARGO_TARGET_DIR").stdin(Stdio::null()).status()?;
    if !status.success() {
        return Err(Stop::Failed(format!("cargo build: {status}")));
    }
    let cpu = procfs::ended_children_cpu()? - cpu;
    Ok((cpu.as_secs_f64(), (clock::now() - began).as_secs_f64()))
}
