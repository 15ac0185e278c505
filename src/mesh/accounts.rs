//! Who pays for dials and circuits that may fail: the peers and machines that made this node try.
//!
//! A peer can name addresses of third parties, in its own Hello or in its lists. Each dial to an address that nothing has
//! proven is therefore paid from the account of its teller, and from the account of the IP address that is dialled. A peer
//! that this node knows well pays nothing for the machine that it came from. A peer can also say that it is connected to
//! peers that do not exist. So it pays for the question whether it carries a circuit to a peer that nothing has proven. A
//! session that comes up returns the payment; otherwise it returns slowly.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// Dials that an account pays for at once: enough to join a large mesh through a list with some dead peers. With what
/// returns meanwhile, these are 64 in the first minute.
pub const CREDIT_MAX: u32 = 60;
/// Payments that a teller's account keeps for peers which a member lists as connected. Keys that came for a moment stay in
/// the lists of honest members for a while, and would use up all that these members can pay.
pub(super) const KEPT_FOR_CONNECTED: u32 = CREDIT_MAX / 2;
/// Time after which one payment returns: 4 a minute.
pub const CREDIT_INTERVAL: Duration = Duration::from_secs(15);
/// Accounts remembered. Beyond that, the account that was used longest ago is forgotten.
const ACCOUNTS_MAX: usize = 4096;

/// Who pays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Account {
    /// A peer that this node knows, for the addresses in its lists.
    Peer(PeerId),
    /// A peer that this node knows, for the addresses of other machines that it claims to have. The account is apart from
    /// that of its lists, so that a long outage leaves enough for the lists.
    Claimant(PeerId),
    /// All strangers that connect from one machine, for the addresses in their lists. New keys cost nothing, new
    /// machines do.
    Machine(IpAddr),
    /// The beacons of one machine. Its strangers may be honest and only repeat what liars have told them, so that account is
    /// apart: the machine is found all the same.
    Beacons(IpAddr),
    /// The account of a peer or of the strangers from one machine, for questions to carriers about the peers in its lists.
    /// Nodes that only carriers reach must not wait until the dials to them have been paid.
    Circuits(Box<Self>),
    /// An IP address that is dialled.
    Target(IpAddr),
    /// A name that is dialled.
    Name(String),
}

impl Account {
    /// The account of the strangers at this address. A machine with IPv6 has a network of 64 bits (RFC 6177).
    pub(super) fn machine(ip: IpAddr) -> Self {
        Self::Machine(network_of(ip))
    }

    /// The account of the beacons from this address.
    pub(super) fn beacons(ip: IpAddr) -> Self {
        Self::Beacons(network_of(ip))
    }

    /// The account of an address that is dialled; `None` for one on this machine, where no third party is.
    pub(super) fn target(addr: &DialAddr) -> Option<Self> {
        match addr {
            _ if addr.is_loopback() => None,
            DialAddr::Socket(addr) => Some(Self::Target(network_of(addr.ip()))),
            DialAddr::LinkLocal { ip, .. } => Some(Self::Target((*ip).into())),
            DialAddr::Name { host, .. } => Some(Self::Name(host.as_str().to_owned())),
        }
    }
}

/// The address itself, or the network of 64 bits of an IPv6 address, unless that is the link with all its machines.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// All accounts that are not full.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    credits: BTreeMap<Account, Credit>,
}

/// An account's credit.
#[derive(Clone, Copy, Debug)]
struct Credit {
    /// Payments left, at most [`CREDIT_MAX`].
    left: u32,
    /// The time since which the next payment returns.
    since: Instant,
}

impl Credit {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_nanos() / CREDIT_INTERVAL.as_nanos();
        let returned = u32::try_from(passed).unwrap_or(u32::MAX).min(CREDIT_MAX - self.left);
        self.left += returned;
        self.since = if self.left == CREDIT_MAX { now } else { self.since + CREDIT_INTERVAL * returned };
    }
}

impl Accounts {
    /// The payments that an account can make now.
    pub(super) fn left(&self, now: Instant, account: &Account) -> u32 {
        self.credits.get(account).map_or(CREDIT_MAX, |credit| {
            let mut credit = *credit;
            credit.refill(now);
            credit.left
        })
    }

    /// Takes one payment from each of these accounts, or from none.
    ///
    /// # Errors
    /// The time until all of them can pay.
    pub(super) fn pay(&mut self, now: Instant, accounts: &[Account]) -> Result<(), Duration> {
        self.pay_and_keep(now, accounts, 0)
    }

    /// The same, but the tellers among these accounts keep this number of payments.
    ///
    /// # Errors
    /// See [`Accounts::pay`].
    pub(super) fn pay_and_keep(
        &mut self,
        now: Instant,
        accounts: &[Account],
        kept: u32,
    ) -> Result<(), Duration> {
        let wait = accounts.iter().map(|account| self.wait(now, account, kept)).max().unwrap_or_default();
        if wait > Duration::ZERO {
            return Err(wait);
        }
        for account in accounts {
            self.make_room(now, account);
            let full = Credit { left: CREDIT_MAX, since: now };
            let credit = self.credits.entry(account.clone()).or_insert(full);
            credit.refill(now);
            credit.left -= 1;
        }
        Ok(())
    }

    /// Returns the payments of a dial that did no harm.
    pub(super) fn give_back(&mut self, accounts: &[Account]) {
        for account in accounts {
            if let Some(credit) = self.credits.get_mut(account) {
                credit.left = CREDIT_MAX.min(credit.left + 1);
                if credit.left == CREDIT_MAX {
                    self.credits.remove(account);
                }
            }
        }
    }

    /// The time until the account can pay. An address that is dialled tells nothing, and keeps nothing.
    fn wait(&self, now: Instant, account: &Account, kept: u32) -> Duration {
        let kept = if matches!(account, Account::Target(_) | Account::Name(_)) { 0 } else { kept };
        match self.credits.get(account) {
            Some(credit) if self.left(now, account) <= kept => {
                let missing = kept + 1 - credit.left;
                (credit.since + CREDIT_INTERVAL * missing).saturating_duration_since(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// Forgets the full accounts if there are too many, or the one that was used longest ago.
    fn make_room(&mut self, now: Instant, account: &Account) {
        if self.credits.len() < ACCOUNTS_MAX || self.credits.contains_key(account) {
            return;
        }
        self.credits.retain(|_, credit| {
            credit.refill(now);
            credit.left < CREDIT_MAX
        });
        if self.credits.len() >= ACCOUNTS_MAX {
            let oldest = self.credits.iter().min_by_key(|(_, credit)| credit.since);
            if let Some(oldest) = oldest.map(|(account, _)| account.clone()) {
                self.credits.remove(&oldest);
            }
        }
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.credits.len() <= ACCOUNTS_MAX, "{} accounts", self.credits.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(n: u8) -> Account {
        Account::machine(IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn account_pays_for_a_burst_and_then_for_four_dials_a_minute() {
        let start = crate::test_now();
        let mut accounts = Accounts::default();
        let payer = [machine(1)];
        assert!((0..CREDIT_MAX).all(|_| accounts.pay(start, &payer).is_ok()));
        let mut paid = 0;
        for second in 0..60 {
            paid += u32::from(accounts.pay(start + Duration::from_secs(second), &payer).is_ok());
        }
        assert_eq!(paid, 3);
        assert!(accounts.pay(start + Duration::from_secs(60), &payer).is_ok());
        let wait = accounts.pay(start + Duration::from_secs(61), &payer).unwrap_err();
        assert_eq!(wait, CREDIT_INTERVAL - Duration::from_secs(1));
    }

    #[test]
    fn one_empty_account_stops_the_payment_of_all() {
        let now = crate::test_now();
        let mut accounts = Accounts::default();
        while accounts.pay(now, &[machine(1)]).is_ok() {}
        assert!(accounts.pay(now, &[machine(2), machine(1)]).is_err());
        assert_eq!(accounts.left(now, &machine(2)), CREDIT_MAX);
        accounts.give_back(&[machine(1)]);
        assert!(accounts.pay(now, &[machine(2), machine(1)]).is_ok());
    }

    #[test]
    fn account_that_keeps_payments_makes_them_for_others() {
        let now = crate::test_now();
        let mut accounts = Accounts::default();
        let (payer, kept) = ([machine(1), Account::Target(IpAddr::from([10, 0, 0, 1]))], CREDIT_MAX / 3);
        assert!((kept..CREDIT_MAX).all(|_| accounts.pay_and_keep(now, &payer, kept).is_ok()));
        assert_eq!(accounts.pay_and_keep(now, &payer, kept), Err(CREDIT_INTERVAL));
        assert!((0..kept - 1).all(|_| accounts.pay(now, &payer).is_ok()));
        assert_eq!(accounts.pay_and_keep(now, &payer, kept), Err(CREDIT_INTERVAL * kept));
        let later = now + CREDIT_INTERVAL * kept;
        assert_eq!(
            accounts.pay_and_keep(later - CREDIT_INTERVAL / 2, &payer, kept),
            Err(CREDIT_INTERVAL / 2)
        );
        assert!(accounts.pay_and_keep(later, &payer, kept).is_ok());
    }

    #[test]
    fn ipv6_network_is_one_machine() {
        let machine = |ip: &str| Account::machine(ip.parse().unwrap());
        assert_eq!(machine("2001:db8::1"), machine("2001:db8::ffff:2"));
        assert_ne!(machine("2001:db8::1"), machine("2001:db8:0:1::1"));
        assert_eq!(machine("::ffff:10.0.0.1"), machine("10.0.0.1"));
        assert_ne!(machine("10.0.0.1"), machine("10.0.0.2"));
        assert_ne!(machine("fe80::1"), machine("fe80::2"));
    }

    #[test]
    fn number_of_accounts_is_bounded() {
        let mut now = crate::test_now();
        let mut accounts = Accounts::default();
        for n in 0..u32::try_from(ACCOUNTS_MAX).unwrap() + 10 {
            now += Duration::from_millis(1);
            let account = Account::Target(IpAddr::from(n.to_be_bytes()));
            assert!(accounts.pay(now, &[account]).is_ok());
            accounts.check_limits();
        }
    }
}
