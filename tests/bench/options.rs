//! The options of the benchmark, from the environment.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::stop::Stop;

/// The names of the figures that `ONLY` accepts.
pub(crate) const FIGURES: [&str; 10] =
    ["formation", "join", "idle", "latency", "throughput", "memory", "death", "heal", "circuits", LOAD];
/// A figure that takes ten minutes, so it runs only if `ONLY` names it.
pub(crate) const LOAD: &str = "load";
/// The names of the tests of faults that `ONLY` accepts.
pub(crate) const FAULTS: [&str; 8] = ["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8"];
/// The names that `BESIDE` accepts.
const BESIDE: [&str; 5] = ["serf", "nats", "foca", "chitchat", "none"];
/// Cases of faults at the same time, if `JOBS` does not say: their nodes at rest take half of a core.
const JOBS: usize = 8;

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) program: PathBuf,
    pub(crate) quick: bool,
    pub(crate) markdown: bool,
    pub(crate) build: bool,
    /// Hours instead of minutes: faults one by one, and long partitions.
    pub(crate) long: bool,
    /// Cases of faults that run at the same time, each in networks of its own.
    pub(crate) jobs: usize,
    /// The other programs to measure; all if it is empty, and `none` names none.
    beside: Vec<String>,
    /// A file for the table as JSON.
    pub(crate) json: Option<PathBuf>,
    /// The directory of the programs that only the test of faults builds.
    pub(crate) libraries: String,
    sizes: Option<Vec<usize>>,
    only: Vec<String>,
}

impl Options {
    pub(crate) fn from_environment(names: &[&str]) -> Result<Self, Stop> {
        let word = |name: &str| env::var(name).unwrap_or_default();
        let is_set = |name: &str| !matches!(word(name).as_str(), "" | "0");
        let program = word("PROGRAM");
        let program = if program.is_empty() { env!("CARGO_BIN_EXE_p2p-gossip") } else { &program };
        let words = |name: &str| -> Vec<String> {
            word(name).split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let only = words("ONLY");
        if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
            let known = names.join(", ");
            return Err(Stop::Failed(format!("ONLY names figures: {known}; {unknown:?} is none")));
        }
        let beside = words("BESIDE");
        if let Some(unknown) = beside.iter().find(|name| !BESIDE.contains(&name.as_str())) {
            let known = BESIDE.join(", ");
            return Err(Stop::Failed(format!("BESIDE names programs: {known}; {unknown:?} is none of them")));
        }
        let jobs = word("JOBS");
        let jobs = match jobs.parse() {
            _ if jobs.is_empty() => JOBS,
            Ok(jobs) if (1..=64).contains(&jobs) => jobs,
            _ => {
                return Err(Stop::Failed(format!(
                    "JOBS is a number of cases from 1 to 64; {jobs:?} is none"
                )));
            }
        };
        let sizes = word("N");
        let sizes = sizes.split([',', ' ']).filter(|size| !size.is_empty()).map(|size| match size.parse() {
            Ok(count) if (4..=200).contains(&count) => Ok(count),
            _ => Err(Stop::Failed(format!("N is numbers of nodes, each from 4 to 200; {size:?} is none"))),
        });
        let sizes = sizes.collect::<Result<Vec<usize>, Stop>>()?;
        Ok(Self {
            program: program.into(),
            quick: is_set("QUICK"),
            markdown: is_set("MARKDOWN"),
            build: is_set("BUILD"),
            long: is_set("LONG"),
            jobs,
            beside,
            json: Some(word("JSON")).filter(|file| !file.is_empty()).map(PathBuf::from),
            libraries: word("LIBRARIES"),
            sizes: (!sizes.is_empty()).then_some(sizes),
            only,
        })
    }

    pub(crate) fn wants(&self, figure: &str) -> bool {
        let is_asked_for = self.only.iter().any(|name| name == figure);
        is_asked_for || (self.only.is_empty() && figure != LOAD)
    }

    /// Whether another program is to be measured, too.
    pub(crate) fn wants_beside(&self, program: &str) -> bool {
        self.beside.is_empty() || self.beside.iter().any(|name| program.starts_with(name))
    }

    /// The numbers of nodes at which figures are measured.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.sizes.clone().unwrap_or_else(|| if self.quick { vec![8, 32] } else { vec![8, 32, 64, 100] })
    }

    /// The number of nodes for the latency, which is measured at one number only.
    pub(crate) fn size_for_latency(&self) -> usize {
        match &self.sizes {
            Some(sizes) => sizes[sizes.len() - 1],
            None if self.quick => 32,
            None => 64,
        }
    }

    /// The number of nodes under load: the largest, which is the hardest case.
    pub(crate) fn size_under_load(&self) -> usize {
        self.sizes().last().copied().unwrap_or_default()
    }

    /// The number of nodes of each program that suffer faults.
    pub(crate) fn size_of_faults(&self) -> usize {
        match &self.sizes {
            Some(sizes) => sizes[sizes.len() - 1].clamp(16, 100),
            None if self.quick => 16,
            None => 32,
        }
    }

    /// Duration of the load.
    pub(crate) fn load(&self) -> Duration {
        Duration::from_secs(if self.quick { 30 } else { 600 })
    }

    /// How often a figure is measured.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// How often a figure is measured that takes little time.
    pub(crate) fn rounds_of_short(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// Number of handshakes of a baseline.
    pub(crate) fn handshakes(&self) -> u32 {
        if self.quick { 200 } else { 1000 }
    }

    /// Number of records of a baseline, in each direction.
    pub(crate) fn records(&self) -> u32 {
        if self.quick { 4000 } else { 20_000 }
    }

    /// Duration of one measurement of CPU time.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 10 })
    }

    /// Duration of the partition that splits a mesh in half.
    pub(crate) fn partition(&self) -> Duration {
        Duration::from_secs(if self.quick { 10 } else { 30 })
    }
}
