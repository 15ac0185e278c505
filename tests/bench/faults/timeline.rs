//! What the nodes of a mesh said in a window of time, and figures of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock;
use crate::cluster::Cluster;
use crate::procfs::Sent;
use crate::stop::Stop;
use crate::system_under_test::Observation;

/// One change that a node reported.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) observer: usize,
    pub(crate) subject: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Up,
    Down,
    /// A loss that is shown in lists only.
    QuietDown,
    Verdict(String),
    /// Another path leads to a peer that is not lost.
    Path,
}

#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) changes: Vec<Change>,
    /// What each node saw at the beginning, itself included.
    views: Vec<BTreeSet<usize>>,
    /// What each node sent that was not killed meanwhile.
    sent: Vec<Sent>,
}

impl Timeline {
    /// Records what the nodes say until `acts` is over.
    pub(crate) fn record<'a>(
        cluster: &mut Cluster<'a>,
        acts: impl FnOnce(&mut Cluster<'a>) -> Result<(), Stop>,
    ) -> Result<Self, Stop> {
        let nodes: Vec<usize> = cluster.running().collect();
        let view = |node: usize| cluster.view(node).into_iter().chain([node]).collect();
        let views = nodes.iter().map(|&node| view(node)).collect();
        let before: Vec<Sent> = nodes.iter().map(|&node| cluster.sent(node)).collect::<Result<_, _>>()?;
        let from = clock::now();
        cluster.changes = Some(Vec::new());
        let acted = acts(cluster);
        let records = cluster.changes.take().unwrap_or_default();
        acted?;
        let to = clock::now();
        let mut sent = Vec::new();
        for node in cluster.running() {
            let (after, before) = (cluster.sent(node)?, before[node]);
            sent.push(Sent { bytes: after.bytes - before.bytes, packets: after.packets - before.packets });
        }
        let change = |record: crate::cluster::Record| {
            let (id, kind) = match record.observation {
                Observation::Up(id) => (id, Kind::Up),
                Observation::Down(id) => (id, Kind::Down),
                Observation::QuietDown(id) => (id, Kind::QuietDown),
                Observation::Verdict { peer, verdict } => (peer, Kind::Verdict(verdict)),
                Observation::Path(id) => (id, Kind::Path),
                _ => return None,
            };
            let subject = cluster.node_of(&id)?;
            Some(Change { at: record.at, observer: record.node, subject, kind })
        };
        Ok(Self { from, to, changes: records.into_iter().filter_map(change).collect(), views, sent })
    }

    pub(crate) fn minutes(&self) -> f64 {
        (self.to - self.from).as_secs_f64() / 60.0
    }

    /// Number of losses of these subjects that users of each of these observers were told.
    pub(crate) fn downs_by_observer(&self, observers: &[usize], subjects: &[usize]) -> Vec<usize> {
        let is_down = |change: &&Change| change.kind == Kind::Down && subjects.contains(&change.subject);
        let downs = |observer: &usize| {
            self.changes.iter().filter(is_down).filter(|change| change.observer == *observer).count()
        };
        observers.iter().map(downs).collect()
    }

    pub(crate) fn downs(&self, observers: &[usize], subjects: &[usize]) -> usize {
        self.downs_by_observer(observers, subjects).into_iter().sum()
    }

    /// Times of the first and the last loss of these subjects, since `from`.
    pub(crate) fn first_and_last_down(
        &self,
        observers: &[usize],
        subjects: &[usize],
    ) -> Option<(Duration, Duration)> {
        let is_loss = |change: &&Change| {
            matches!(change.kind, Kind::Down | Kind::QuietDown)
                && observers.contains(&change.observer)
                && subjects.contains(&change.subject)
        };
        let at = |change: &Change| change.at.saturating_sub(self.from);
        let times = || self.changes.iter().filter(is_loss).map(at);
        Some((times().min()?, times().max()?))
    }

    /// The sizes of views, self included, that these observers had after changes.
    pub(crate) fn sizes(&self, observers: &[usize]) -> BTreeSet<usize> {
        let mut views = self.views.clone();
        let mut sizes = BTreeSet::new();
        for change in &self.changes {
            apply(&mut views, change);
            if observers.contains(&change.observer) {
                sizes.insert(views[change.observer].len());
            }
        }
        sizes
    }

    /// How often these observers gave each verdict on these subjects: `node 31, link 2`.
    pub(crate) fn verdicts(&self, observers: &[usize], subjects: &[usize]) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for change in &self.changes {
            if let Kind::Verdict(verdict) = &change.kind
                && observers.contains(&change.observer)
                && subjects.contains(&change.subject)
            {
                *counts.entry(verdict).or_default() += 1;
            }
        }
        let counts: Vec<String> =
            counts.iter().map(|(verdict, count)| format!("{verdict} {count}")).collect();
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    }

    /// What this observer told last about this subject: a verdict, or a loss among most.
    pub(crate) fn last_verdict(&self, observer: usize, subject: usize) -> Option<&str> {
        let is_about = |change: &&Change| change.observer == observer && change.subject == subject;
        self.changes.iter().rev().filter(is_about).find_map(|change| match &change.kind {
            Kind::Verdict(verdict) => Some(verdict.as_str()),
            Kind::QuietDown => Some("self"),
            Kind::Up | Kind::Down | Kind::Path => None,
        })
    }

    /// Whether this observer lost this subject, if only for a moment.
    pub(crate) fn is_lost(&self, observer: usize, subject: usize) -> bool {
        let is_loss = |change: &Change| matches!(change.kind, Kind::Down | Kind::QuietDown);
        self.changes.iter().any(|c| c.observer == observer && c.subject == subject && is_loss(c))
    }

    /// The time since `from` of the first other path from this observer to this subject.
    pub(crate) fn other_path(&self, observer: usize, subject: usize) -> Option<Duration> {
        let is_it = |change: &&Change| {
            change.observer == observer && change.subject == subject && change.kind == Kind::Path
        };
        self.changes.iter().find(is_it).map(|change| change.at.saturating_sub(self.from))
    }

    /// The share of seconds in which all these observers saw the same members, all the second long.
    pub(crate) fn agreeing_share(&self, observers: &[usize]) -> f64 {
        let agree = |views: &[BTreeSet<usize>]| {
            let mut of_observers = observers.iter().map(|&observer| &views[observer]);
            let first = of_observers.next();
            of_observers.all(|view| Some(view) == first)
        };
        let seconds = (self.to - self.from).as_secs();
        let mut views = self.views.clone();
        let mut changes = self.changes.iter().peekable();
        let mut agreeing = 0_u64;
        for second in 1..=seconds {
            let end = self.from + Duration::from_secs(second);
            let mut is_agreed = agree(&views);
            while let Some(change) = changes.next_if(|change| change.at <= end) {
                apply(&mut views, change);
                is_agreed &= agree(&views);
            }
            agreeing += u64::from(is_agreed);
        }
        agreeing as f64 / seconds.max(1) as f64
    }

    /// Kilobytes and packets that a node sent in a second.
    pub(crate) fn traffic(&self) -> (f64, f64) {
        let node_seconds = (self.to - self.from).as_secs_f64() * self.sent.len() as f64;
        let sum = |part: fn(&Sent) -> u64| self.sent.iter().map(part).sum::<u64>() as f64;
        (sum(|sent| sent.bytes) / 1e3 / node_seconds, sum(|sent| sent.packets) / node_seconds)
    }
}

fn apply(views: &mut [BTreeSet<usize>], change: &Change) {
    match change.kind {
        Kind::Up => {
            views[change.observer].insert(change.subject);
        }
        Kind::Down | Kind::QuietDown => {
            views[change.observer].remove(&change.subject);
        }
        Kind::Verdict(_) | Kind::Path => {}
    }
}
