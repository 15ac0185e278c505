//! Witnesses: a node that loses a peer asks other members when they last heard it, and tells its user what they say.
//!
//! A loss is reported at once; the verdict follows within a quarter of a second. A question is testimony, too: it says
//! that its sender has lost the peer. So members that lose a peer at the same moment inform each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::inquiry::{Inquiry, Loss, Step, VOICES_MAX, VerdictInfo};
use super::machine::Mesh;
use super::peer::{Connected, Link, Peer, State};
use super::standing::Standing;
use super::timer::Timer;
use crate::event::{Event, Verdict};
use crate::trust::peer_id::PeerId;
use crate::wire::{Hearing, Message, SIGHTINGS_MAX, Sighting};

/// Members that are asked first. In a larger mesh these are chosen at random: so many rarely err together.
const ASKED_FIRST: usize = 16;
/// Wait before the first question. Peers that are lost in this time go into one message, and a member that loses them a
/// moment later already knows it.
const QUESTION_DELAY: Duration = Duration::from_millis(20);
/// Shortest and longest time from a loss until the verdict; in between two round trips. The verdict is there within
/// 250 ms, also if a timer is late.
const ANSWERS_MIN: Duration = Duration::from_millis(230);
const ANSWERS_MAX: Duration = Duration::from_secs(2);
/// Time from a loss until the verdict if there is no member to ask. The first redial is over by then, and a system that
/// refuses it is a witness.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Wait before the members are asked again whether they have other news, and the longest such wait.
const FOLLOW_UP_MIN: Duration = Duration::from_secs(10);
const FOLLOW_UP_MAX: Duration = Duration::from_secs(8 * 60);
/// Peers about which the members are to be asked again within this time go into one message: none is urgent, and an outbox
/// has room for few messages.
const FOLLOW_UPS_TOGETHER: Duration = Duration::from_millis(500);
/// Wait after an isolation before the members are asked about those that are still lost: the others are redialled first.
const AFTER_ISOLATION: Duration = Duration::from_secs(5);
/// Acquainted members that suffice as witnesses. With fewer, strangers count as well.
const ACQUAINTED_SUFFICE: usize = 3;
impl Mesh {
    /// A member is lost. If the user was not told so, because it was unstable, the members are asked only once it has been
    /// lost for a while.
    pub(super) fn inquire(
        &mut self,
        now: Instant,
        id: PeerId,
        loss: Loss,
        heard: Instant,
        expected: Duration,
        is_reported: bool,
    ) {
        let before = self.witnesses.inquiries.get(&id);
        let mut inquiry = Inquiry::new(now, loss, heard, expected, FOLLOW_UP_MIN).after(before);
        let is_stranger = self.is_stranger(now, &id);
        if !is_reported || is_stranger && self.witnesses.about_strangers.take(now).is_err() {
            inquiry.step = Step::FollowUp;
        }
        let wait = if inquiry.step == Step::Ask { QUESTION_DELAY } else { FOLLOW_UP_MIN };
        self.witnesses.inquiries.insert(id, inquiry);
        self.timers.set(Timer::Witness(id), now + wait);
    }

    /// A member is lost because this node is isolated: no member can be asked.
    pub(super) fn conclude_isolated(&mut self, now: Instant, id: PeerId, loss: Loss, heard: Instant) {
        let before = self.witnesses.inquiries.get(&id);
        let mut inquiry = Inquiry::new(now, loss, heard, Duration::ZERO, FOLLOW_UP_MIN).after(before);
        inquiry.step = Step::FollowUp;
        self.witnesses.inquiries.insert(id, inquiry);
        self.conclude(now, id, Verdict::Isolated);
        self.timers.set(Timer::Witness(id), now + FOLLOW_UP_MIN);
    }

    /// The peer is up again, has left, or is forgotten.
    pub(super) fn end_inquiry(&mut self, id: &PeerId) {
        self.witnesses.inquiries.remove(id);
        self.timers.cancel(Timer::Witness(*id));
    }

    /// The peer is back. If it comes through a member, and only a lone member had heard it meanwhile, the verdict was wrong:
    /// a handshake inside a circuit proves that the peer lives, which no member can do in its name.
    pub(super) fn refine_by_circuit(&mut self, now: Instant, id: PeerId) {
        let is_contested = |info: VerdictInfo| info.verdict == Verdict::Node && info.seen_by > 0;
        let verdict = self.witnesses.get(&id).and_then(Inquiry::verdict);
        if self.via(&id).is_some() && verdict.is_some_and(is_contested) {
            self.conclude(now, id, Verdict::Link);
        }
    }

    /// This node is isolated: that is why no member answered about the peers that it lost just before.
    pub(super) fn refine_by_isolation(&mut self, now: Instant) {
        let lost = self.silent_losses.lost.iter().map(|(_, id)| *id);
        let before: Vec<PeerId> = lost.filter(|id| !self.is_connected(id)).collect();
        for id in before {
            let verdict = self.witnesses.get(&id).map(Inquiry::verdict);
            if verdict.is_some_and(|info| info.is_none_or(|info| info.verdict == Verdict::Unknown)) {
                self.conclude(now, id, Verdict::Isolated);
            }
        }
    }

    /// The peer is connected again, but not shown as up yet.
    pub(super) fn suspend_inquiry(&mut self, id: &PeerId) {
        self.timers.cancel(Timer::Witness(*id));
    }

    /// The isolation of this node is over: the members know more about those that are still lost.
    pub(super) fn inquire_after_isolation(&mut self, now: Instant) {
        let lost: Vec<PeerId> = self.witnesses.inquiries.keys().copied().collect();
        for id in lost {
            let is_isolated = |info: VerdictInfo| info.verdict == Verdict::Isolated;
            if self.timers.is_set(Timer::Witness(id))
                && let Some(inquiry) = self.witnesses.inquiries.get_mut(&id)
                && inquiry.verdict().is_some_and(is_isolated)
            {
                inquiry.step = Step::FollowUp;
                self.timers.set(Timer::Witness(id), now + AFTER_ISOLATION);
            }
        }
    }

    /// The system of the peer's machine has refused a connection.
    pub(super) fn refused_by_system(&mut self, now: Instant, id: PeerId) {
        if let Some(inquiry) = self.witnesses.inquiries.get_mut(&id) {
            inquiry.is_refused = true;
            // If no member could be asked, or none has answered, this is all that there is to know.
            let is_awaited = match inquiry.verdict() {
                None => inquiry.step == Step::Conclude && !inquiry.has_asked(),
                Some(info) => info.verdict == Verdict::Unknown,
            };
            if is_awaited && self.timers.is_set(Timer::Witness(id)) {
                inquiry.step = Step::Conclude;
                self.timers.set(Timer::Witness(id), now);
            }
        }
    }

    /// The next step of the inquiry about this peer is due, and of others with it.
    pub(super) fn witness_due(&mut self, now: Instant, id: PeerId) {
        let Some(step) = self.witnesses.inquiries.get(&id).map(|inquiry| inquiry.step) else {
            return;
        };
        match step {
            Step::Ask | Step::FollowUp => {
                let about = self.due_with(now, id, step);
                self.ask_witnesses(now, &about);
                about.into_iter().for_each(|id| self.witnesses_asked(now, id));
            }
            Step::AskAgain => {
                let about = self.due_with(now, id, step);
                self.ask_again(now, &about);
                let rest = self.answer_time() / 2;
                about.into_iter().for_each(|id| self.next_step(id, Step::Conclude, now + rest));
            }
            Step::Conclude => {
                let verdict = self.verdict_on(now, &id, true);
                self.follow_up(now, id);
                let before = self.witnesses.get(&id).and_then(Inquiry::verdict).map(|info| info.verdict);
                // Later silence of the members is no news, and those on this side of a partition know no more.
                let is_news = verdict != Some(Verdict::Unknown)
                    && (before != Some(Verdict::Isolated) || self.isolation.is_none());
                if let Some(verdict) = verdict.filter(|_| before.is_none() || is_news) {
                    self.conclude(now, id, verdict);
                }
            }
        }
    }

    /// The members, if there are any, have been asked about this peer.
    fn witnesses_asked(&mut self, now: Instant, id: PeerId) {
        let Some(inquiry) = self.witnesses.get(&id) else {
            return;
        };
        let (step, from_loss) = if inquiry.has_asked() {
            (Step::AskAgain, self.answer_time() / 2)
        } else if inquiry.is_refused {
            (Step::Conclude, Duration::ZERO)
        } else {
            (Step::Conclude, REFUSAL_TIME)
        };
        self.next_step(id, step, now + from_loss.saturating_sub(QUESTION_DELAY));
        // Some members have told of the same loss already.
        self.reconsider(now, id);
    }

    fn next_step(&mut self, id: PeerId, step: Step, at: Instant) {
        if let Some(inquiry) = self.witnesses.inquiries.get_mut(&id) {
            inquiry.step = step;
            self.timers.set(Timer::Witness(id), at);
        }
    }

    /// The members are asked anew later, each time after a longer wait.
    fn follow_up(&mut self, now: Instant, id: PeerId) {
        if let Some(inquiry) = self.witnesses.inquiries.get_mut(&id) {
            let wait = inquiry.wait;
            inquiry.wait = (wait * 2).min(FOLLOW_UP_MAX);
            self.next_step(id, Step::FollowUp, now + wait);
        }
    }

    /// The time from a loss until the verdict, at most.
    fn answer_time(&self) -> Duration {
        let slowest = self.measures.rtt.percentile(99).unwrap_or_default();
        slowest.saturating_mul(2).clamp(ANSWERS_MIN, ANSWERS_MAX)
    }

    /// Asks some members about all of these peers.
    fn ask_witnesses(&mut self, now: Instant, about: &[PeerId]) {
        for id in about {
            if let Some(inquiry) = self.witnesses.inquiries.get_mut(id) {
                inquiry.begin_round();
            }
        }
        let witnesses = self.witnesses_now(now);
        let chosen = self.rng.choose_multiple(witnesses, ASKED_FIRST);
        for witness in chosen {
            self.ask_witness(now, witness, about);
        }
    }

    /// This peer and all others whose inquiries have the same step soon: many peers may be lost at one moment, and a
    /// message about each would fill the outbox of a member.
    fn due_with(&self, now: Instant, id: PeerId, step: Step) -> Vec<PeerId> {
        let soon = now + if step == Step::FollowUp { FOLLOW_UPS_TOGETHER } else { QUESTION_DELAY };
        let due = |(other, inquiry): (&PeerId, &Inquiry)| {
            let is_soon = self.timers.deadline(Timer::Witness(*other)).is_some_and(|at| at <= soon);
            (*other == id || is_soon && inquiry.step == step).then_some(*other)
        };
        self.witnesses.iter().filter_map(due).collect()
    }

    /// Asks those again whose answers decided nothing, and more members if the answers differ.
    fn ask_again(&mut self, now: Instant, about: &[PeerId]) {
        let witnesses = self.witnesses_now(now);
        let mut questions: BTreeMap<PeerId, Vec<PeerId>> = BTreeMap::new();
        for id in about {
            let Some(inquiry) = self.witnesses.inquiries.get(id) else {
                continue;
            };
            let is_contradictory = inquiry.is_contradictory();
            let is_asked = |witness: &&PeerId| {
                inquiry.is_open(witness) || is_contradictory && !inquiry.was_asked(witness)
            };
            for witness in witnesses.iter().filter(is_asked).take(VOICES_MAX) {
                questions.entry(*witness).or_default().push(*id);
            }
        }
        for (witness, about) in questions {
            self.ask_witness(now, witness, &about);
        }
    }

    fn ask_witness(&mut self, now: Instant, witness: PeerId, about: &[PeerId]) {
        for ids in about.chunks(SIGHTINGS_MAX) {
            let lost = ids.iter().map(|id| self.sighting(now, *id)).collect();
            self.send(&witness, Message::WitnessRequest { lost });
        }
        for id in about {
            if let Some(inquiry) = self.witnesses.inquiries.get_mut(id) {
                inquiry.ask(witness);
            }
        }
    }

    /// The members that may be asked: those that this node knows well, or all if these are few.
    fn witnesses_now(&self, now: Instant) -> Vec<PeerId> {
        let with_session =
            |(id, connected): (&PeerId, &Connected)| connected.active().is_some().then_some(*id);
        let all: Vec<PeerId> = self.peers.iter_connected().filter_map(with_session).collect();
        let known: Vec<PeerId> = all.iter().filter(|id| !self.is_stranger(now, id)).copied().collect();
        if known.len() >= ACQUAINTED_SUFFICE { known } else { all }
    }

    /// Another member tells of its losses, and asks what this node knows.
    pub(super) fn received_question(&mut self, now: Instant, from: PeerId, lost: &[Sighting]) {
        self.received_testimony(now, from, lost);
        for sighting in lost {
            // It has just lost the peer: that may change a verdict.
            if let Some(inquiry) = self.witnesses.get(&sighting.peer)
                && inquiry.step == Step::FollowUp
                && self.timers.is_set(Timer::Witness(sighting.peer))
            {
                self.timers.set_no_later(Timer::Witness(sighting.peer), now + FOLLOW_UP_MIN);
            }
        }
        let is_stranger = self.is_stranger(now, &from);
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let budget = if is_stranger { &mut self.witnesses.of_strangers } else { &mut peer.questions };
        if budget.take(now).is_err() {
            return;
        }
        let sightings = lost.iter().map(|sighting| self.sighting(now, sighting.peer)).collect();
        self.send(&from, Message::WitnessReport { sightings });
    }

    /// Another member tells what it knows of peers. Only what it says of peers that this node has lost is news.
    pub(super) fn received_testimony(&mut self, now: Instant, from: PeerId, sightings: &[Sighting]) {
        let rtt = self.peers.connected(&from).and_then(|connected| connected.rtt.last);
        let way = rtt.unwrap_or_default() / 2;
        for sighting in sightings {
            self.path_witnessed(now, from, sighting, way);
            if let Some(inquiry) = self.witnesses.inquiries.get_mut(&sighting.peer)
                && sighting.peer != from
            {
                inquiry.testify(now, from, sighting, way);
                self.reconsider(now, sighting.peer);
            }
        }
    }

    /// There is new evidence. The first verdict may be certain before the time for answers is over. Later ones take their
    /// time, so that a peer which comes and goes for some members causes few.
    fn reconsider(&mut self, now: Instant, id: PeerId) {
        // Before the members are asked, one that tells of the loss unasked decides nothing.
        let is_open = |inquiry: &&Inquiry| match inquiry.verdict() {
            None => matches!(inquiry.step, Step::AskAgain | Step::Conclude),
            // The answers come late.
            Some(info) => info.verdict == Verdict::Unknown && inquiry.has_asked(),
        };
        if self.witnesses.get(&id).filter(is_open).is_some()
            && self.timers.is_set(Timer::Witness(id))
            && let Some(verdict) = self.verdict_on(now, &id, false)
        {
            self.follow_up(now, id);
            self.conclude(now, id, verdict);
        }
    }

    fn verdict_on(&self, now: Instant, id: &PeerId, is_final: bool) -> Option<Verdict> {
        let known = |id: &PeerId| !self.is_stranger(now, id);
        let acquainted = self.peers.iter_connected().filter(|(id, _)| known(id)).count();
        let counts = |id: &PeerId| self.is_connected(id) && (acquainted < ACQUAINTED_SUFFICE || known(id));
        self.witnesses.inquiries.get(id)?.decide(is_final, counts)
    }

    /// Tells the user of the verdict if it is news.
    fn conclude(&mut self, now: Instant, id: PeerId, verdict: Verdict) {
        let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
        let Some(inquiry) = self.witnesses.inquiries.get_mut(&id) else {
            return;
        };
        let counts = |id: &PeerId| connected.binary_search(id).is_ok();
        let Some(info) = inquiry.conclude(now, verdict, counts) else {
            return;
        };
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let (name, addr) = (peer.name.clone(), peer.shown_addr());
        let heard_ms = info.heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX));
        let (asked, seen_by) = (info.asked, info.seen_by);
        self.notify(Event::Verdict { peer: id, name, addr, verdict, asked, seen_by, heard_ms });
        self.alert_verdict(now, id, verdict);
    }

    /// What this node knows of a peer. It tells no more than that it is connected, or was in this run, as lists do.
    pub(super) fn sighting(&self, now: Instant, id: PeerId) -> Sighting {
        let unknown = Sighting { peer: id, hearing: Hearing::Unknown, ago_ms: u32::MAX };
        let is_admitted = self.config.access.check(&id).is_ok();
        let Some(peer) = self.peers.get(&id).filter(|_| is_admitted) else {
            return unknown;
        };
        let (hearing, ago) = match &peer.state {
            State::Up(connected) | State::Unstable { connected, .. } => {
                let silence = self.silence_of(now, connected);
                let is_open = matches!(connected.link, Link::Open { .. });
                let hears = is_open && silence < self.suspicion(connected);
                (if hears { Hearing::Hears } else { Hearing::Silent }, silence)
            }
            State::Dead(gone) if peer.instances.is_met() => {
                let heard = self.witnesses.get(&id).map(|inquiry| inquiry.heard_ago(now));
                (Hearing::Lost, heard.unwrap_or_else(|| now.saturating_duration_since(gone.since)))
            }
            State::Provisional { .. } | State::Dead(_) | State::Left(_) | State::Rumoured { .. } => {
                return unknown;
            }
        };
        Sighting { peer: id, hearing, ago_ms: u32::try_from(ago.as_millis()).unwrap_or(u32::MAX) }
    }

    /// The time since a peer was heard, without the stalls of this node.
    pub(super) fn silence_of(&self, now: Instant, connected: &Connected) -> Duration {
        let silence = now.saturating_duration_since(connected.heard);
        silence.saturating_sub(self.measures.stalls.between(connected.heard, now))
    }

    /// The standing at which a peer counts for what all members together show.
    pub(super) fn is_known_well(&self, now: Instant, id: &PeerId, peer: &Peer) -> bool {
        self.standing(now, id, peer) >= Standing::Acquainted
    }

    pub(super) fn check_inquiries(&self) {
        for (id, inquiry) in self.witnesses.iter() {
            inquiry.check_limits();
            let state = self.peers.get(id).map(|peer| &peer.state);
            let is_needed =
                matches!(state, Some(State::Dead(_) | State::Unstable { .. } | State::Provisional { .. }));
            debug_assert!(is_needed, "an inquiry about {}, which is not lost", id.short());
        }
    }
}
