//! What the members of the mesh say of one lost peer, and the verdict that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::Verdict;
use crate::trust::peer_id::PeerId;
use crate::wire::{Hearing, Sighting};

/// Members that are heard on one lost peer. Of all that are asked, and tell of the loss unasked, the first count.
pub(super) const VOICES_MAX: usize = 64;
/// Verdicts on one loss of which the user is told. Members that contradict themselves again and again cannot fill the log.
const VERDICTS_MAX: u32 = 4;
/// A member that is still connected to a peer this long after the peer's connection to this node was closed has not seen
/// it end: a system closes all connections of a process at once.
const CLOSED_EVERYWHERE: Duration = Duration::from_millis(100);

/// What the other members said of the loss of a peer, as in [`Event::Verdict`](crate::Event::Verdict).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerdictInfo {
    /// The verdict.
    pub verdict: Verdict,
    /// The number of members that were asked.
    pub asked: usize,
    /// The number of members that hear the peer.
    pub seen_by: usize,
    /// The time between the last message that this node or a member that was asked heard of the peer, and the verdict.
    pub heard: Option<Duration>,
}

/// How this node lost a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The connection was closed. The news of that came over the network, so this node is not cut off.
    Closed,
    /// Nothing was heard for the timeout.
    Silent,
    /// The last session ended because one side had heard nothing, and none has come up since.
    Interrupted,
}

/// The next step of an inquiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask some members.
    Ask,
    /// Ask those again whose answers decided nothing, and more members if the answers differ.
    AskAgain,
    /// The time for answers is over.
    Conclude,
    /// Begin anew, because the members may have other news.
    FollowUp,
}

/// What a member says of the lost peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// It has heard the peer after this node lost it.
    Sees,
    /// It hears nothing.
    Misses,
    /// It is connected to the peer, but may only have not noticed the loss yet.
    Undecided,
}

/// An inquiry about one lost peer.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) loss: Loss,
    lost_at: Instant,
    /// A member that has heard the peer after this time has heard it after this node should have.
    outlived: Instant,
    /// The last time at which this node or a member heard the peer, as far as known.
    heard: Instant,
    pub(super) step: Step,
    /// The wait before the members are asked anew.
    pub(super) wait: Duration,
    asked: BTreeSet<PeerId>,
    /// At most [`VOICES_MAX`].
    voices: BTreeMap<PeerId, Voice>,
    /// The system of the peer's machine has refused a connection since: no process listens there.
    pub(super) is_refused: bool,
    verdict: Option<VerdictInfo>,
    verdicts: u32,
}

impl Inquiry {
    /// This node last heard the peer at `heard`, and expects to hear it within `expected`.
    pub(super) fn new(now: Instant, loss: Loss, heard: Instant, expected: Duration, wait: Duration) -> Self {
        let outlived = match loss {
            Loss::Silent => heard + expected,
            Loss::Closed => now + CLOSED_EVERYWHERE / 2,
            Loss::Interrupted => heard + CLOSED_EVERYWHERE,
        };
        Self {
            loss,
            lost_at: now,
            outlived,
            heard,
            step: Step::Ask,
            wait,
            asked: BTreeSet::new(),
            voices: BTreeMap::new(),
            is_refused: false,
            verdict: None,
            verdicts: 0,
        }
    }

    /// The peer was lost again before the user was told that it is back: the last verdict stands until there is another.
    pub(super) fn after(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            (self.verdict, self.verdicts) = (before.verdict, before.verdicts);
        }
        self
    }

    /// The last verdict.
    pub(super) fn verdict(&self) -> Option<VerdictInfo> {
        self.verdict
    }

    /// The time since this node or a member heard the peer.
    pub(super) fn heard_ago(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// The members are asked anew: what they said before does not count.
    pub(super) fn begin_round(&mut self) {
        self.asked.clear();
        if self.verdict.is_some() {
            self.voices.clear();
        }
    }

    /// These members are asked.
    pub(super) fn ask(&mut self, witness: PeerId) {
        if self.asked.len() < VOICES_MAX {
            self.asked.insert(witness);
        }
    }

    /// Whether this member has to be asked again: its answer is missing, or decided nothing.
    pub(super) fn is_open(&self, witness: &PeerId) -> bool {
        self.asked.contains(witness) && !matches!(self.voices.get(witness), Some(Voice::Sees | Voice::Misses))
    }

    /// Whether members contradict each other.
    pub(super) fn is_contradictory(&self) -> bool {
        let has = |wanted| self.voices.values().any(|voice| *voice == wanted);
        has(Voice::Sees) && has(Voice::Misses)
    }

    /// Whether some member has been asked in this round.
    pub(super) fn has_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn was_asked(&self, witness: &PeerId) -> bool {
        self.asked.contains(witness)
    }

    /// A member tells what it knows. The message was `way` under way.
    pub(super) fn testify(&mut self, now: Instant, witness: PeerId, sighting: &Sighting, way: Duration) {
        if self.voices.len() >= VOICES_MAX && !self.voices.contains_key(&witness) {
            return;
        }
        let ago = Duration::from_millis(sighting.ago_ms.into()) + way;
        let heard = now.checked_sub(ago).filter(|_| sighting.ago_ms < u32::MAX);
        let voice = match sighting.hearing {
            Hearing::Unknown => {
                self.voices.remove(&witness);
                self.asked.remove(&witness);
                return;
            }
            Hearing::Silent | Hearing::Lost => Voice::Misses,
            Hearing::Hears if heard.is_some_and(|heard| heard >= self.outlived) => Voice::Sees,
            Hearing::Hears if self.loss == Loss::Closed && now >= self.lost_at + CLOSED_EVERYWHERE => {
                Voice::Sees
            }
            Hearing::Hears => Voice::Undecided,
        };
        // What a member says of its own time is believed only if it hears the peer: others tell when they lost it.
        if sighting.hearing == Hearing::Hears
            && let Some(heard) = heard
        {
            self.heard = self.heard.max(heard);
        }
        self.voices.insert(witness, voice);
    }

    /// The verdict of the members that count, if it is certain; after the time for answers, in any case. While more answers
    /// are missing than there are, that is `unknown`: the missing ones may say otherwise.
    pub(super) fn decide(&self, is_final: bool, counts: impl Fn(&PeerId) -> bool) -> Option<Verdict> {
        let counted = || self.voices.iter().filter(|(witness, _)| counts(witness));
        let number = |wanted| counted().filter(|(_, voice)| **voice == wanted).count();
        let (seen, missed) = (number(Voice::Sees), number(Voice::Misses));
        let open = self.asked.iter().filter(|witness| counts(witness) && self.is_open(witness)).count();
        if is_final {
            return Some(match seen + missed {
                0 if self.is_refused => Verdict::Node,
                voters if voters == 0 || open > voters => Verdict::Unknown,
                voters => verdict_of(seen, voters),
            });
        }
        if seen + missed == 0 {
            return None;
        }
        let all = seen + missed + open;
        let (least, most) = (verdict_of(seen, all), verdict_of(seen + open, all));
        (least == most && least == verdict_of(seen, seen + missed)).then_some(least)
    }

    /// Notes a verdict. Returns it if the user has to be told.
    pub(super) fn conclude(
        &mut self,
        now: Instant,
        verdict: Verdict,
        counts: impl Fn(&PeerId) -> bool,
    ) -> Option<VerdictInfo> {
        let is_news = self.verdict.is_none_or(|before| before.verdict != verdict);
        let sees = |(witness, voice): (&PeerId, &Voice)| *voice == Voice::Sees && counts(witness);
        let seen_by = self.voices.iter().filter(|voice| sees(*voice)).count();
        let unasked = self.voices.keys().filter(|witness| !self.asked.contains(witness)).count();
        let asked = self.asked.len() + unasked;
        let info = VerdictInfo { verdict, asked, seen_by, heard: Some(self.heard_ago(now)) };
        if is_news && self.verdicts >= VERDICTS_MAX {
            return None;
        }
        self.verdicts += u32::from(is_news);
        self.verdict = Some(info);
        is_news.then_some(info)
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.voices.len() <= VOICES_MAX, "{} voices", self.voices.len());
        debug_assert!(self.asked.len() <= VOICES_MAX, "{} members asked", self.asked.len());
    }
}

/// The verdict of members that all hear or miss the peer. It is the link if more than a quarter of them hear the peer,
/// and at least two if there are three or more: one member that lies or errs does not outvote the others.
fn verdict_of(seen: usize, voters: usize) -> Verdict {
    let least = if voters <= 2 { 1 } else { 2 };
    if seen >= least && seen * 4 > voters { Verdict::Link } else { Verdict::Node }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn says(hearing: Hearing, ago_ms: u32) -> Sighting {
        Sighting { peer: id(99), hearing, ago_ms }
    }

    /// An inquiry on a peer that fell silent three seconds ago, which these numbers of members hear and miss.
    fn silent(hear: u8, miss: u8) -> (Instant, Inquiry) {
        let start = crate::test_now();
        let now = start + 3000 * MS;
        let mut inquiry = Inquiry::new(now, Loss::Silent, start, 1500 * MS, MS);
        for n in 0..hear + miss {
            inquiry.ask(id(n));
            let sighting = if n < hear { says(Hearing::Hears, 700) } else { says(Hearing::Silent, 2900) };
            inquiry.testify(now, id(n), &sighting, MS);
        }
        (now, inquiry)
    }

    #[test]
    fn verdict_needs_more_than_one_of_many() {
        for (hear, miss, verdict) in [
            (0, 0, Verdict::Unknown),
            (0, 1, Verdict::Node),
            (1, 0, Verdict::Link),
            (1, 1, Verdict::Link),
            (1, 2, Verdict::Node),
            (2, 1, Verdict::Link),
            (1, 6, Verdict::Node),
            (2, 5, Verdict::Link),
            (4, 12, Verdict::Node),
            (5, 11, Verdict::Link),
        ] {
            let (_, inquiry) = silent(hear, miss);
            assert_eq!(inquiry.decide(true, |_| true), Some(verdict), "{hear} hear it, {miss} do not");
        }
    }

    #[test]
    fn sighting_before_the_loss_decides_nothing() {
        let (now, mut inquiry) = silent(0, 0);
        inquiry.ask(id(1));
        inquiry.testify(now, id(1), &says(Hearing::Hears, 1600), MS);
        assert_eq!(inquiry.decide(false, |_| true), None);
        assert_eq!(inquiry.decide(true, |_| true), Some(Verdict::Unknown));
        assert!(inquiry.is_open(&id(1)));
        inquiry.testify(now + 125 * MS, id(1), &says(Hearing::Hears, 20), MS);
        assert_eq!(inquiry.decide(false, |_| true), Some(Verdict::Link));
        assert_eq!(inquiry.heard_ago(now + 125 * MS), 21 * MS);
    }

    /// The member has not seen yet that the process has ended, which the system tells it in a moment.
    #[test]
    fn member_that_is_connected_for_a_moment_longer_decides_nothing() {
        let now = crate::test_now();
        let mut inquiry = Inquiry::new(now, Loss::Closed, now - 300 * MS, 1500 * MS, MS);
        for n in 1..=3 {
            inquiry.ask(id(n));
            inquiry.testify(now + 20 * MS, id(n), &says(Hearing::Hears, 300), MS);
        }
        assert_eq!(inquiry.decide(false, |_| true), None);
        inquiry.testify(now + 30 * MS, id(1), &says(Hearing::Lost, 0), MS);
        inquiry.testify(now + 30 * MS, id(2), &says(Hearing::Lost, 0), MS);
        assert_eq!(inquiry.decide(false, |_| true), Some(Verdict::Node), "one voice changes nothing");
        for n in 1..=3 {
            inquiry.testify(now + 125 * MS, id(n), &says(Hearing::Hears, 425), MS);
        }
        assert_eq!(inquiry.decide(false, |_| true), Some(Verdict::Link));
    }

    /// Found by seed 1006929 of the verdicts: the network has lost packets of the answers.
    #[test]
    fn one_answer_of_three_decides_nothing() {
        let (now, mut inquiry) = silent(0, 1);
        inquiry.ask(id(1));
        assert_eq!(inquiry.decide(true, |_| true), Some(Verdict::Node), "half of the answers is enough");
        inquiry.ask(id(2));
        assert_eq!(inquiry.decide(true, |_| true), Some(Verdict::Unknown));
        assert_eq!(inquiry.decide(true, |witness| *witness != id(2)), Some(Verdict::Node), "2 is lost, too");
        for n in [1, 2] {
            inquiry.testify(now, id(n), &says(Hearing::Hears, 20), MS);
        }
        assert_eq!(inquiry.decide(false, |_| true), Some(Verdict::Link));
    }

    #[test]
    fn refused_connection_is_evidence_if_no_member_can_be_asked() {
        let (_, mut inquiry) = silent(0, 0);
        inquiry.is_refused = true;
        assert_eq!(inquiry.decide(true, |_| true), Some(Verdict::Node));
        inquiry.testify(crate::test_now() + 4000 * MS, id(1), &says(Hearing::Hears, 0), MS);
        assert_eq!(inquiry.decide(true, |_| true), Some(Verdict::Link));
    }

    #[test]
    fn same_verdict_is_told_once_and_changes_at_most_three_times() {
        let (now, mut inquiry) = silent(2, 1);
        assert!(inquiry.conclude(now, Verdict::Link, |_| true).is_some());
        assert_eq!(inquiry.conclude(now, Verdict::Link, |_| true), None);
        let told = (0..100).filter(|n| {
            let verdict = if n % 2 == 0 { Verdict::Node } else { Verdict::Link };
            inquiry.conclude(now, verdict, |_| true).is_some()
        });
        assert_eq!(told.count(), 3);
    }
}
