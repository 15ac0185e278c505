//! The verb `invite`: prints the command with which another node joins a closed network.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use p2p_gossip::{DialAddr, KeyRing, KnownPeer, LastListening, PeerId, StateDir, TICKET_MEMBERS_MAX, Ticket};
use qrcodegen::{QrCode, QrCodeEcc};

use super::VerbError;
use crate::cli::PROGRAM;
use crate::output::local_addresses::local_addresses;

/// Returns the command, or the QR code of its ticket.
pub(super) fn invite(state: &Path, as_qr_code: bool) -> Result<String, VerbError> {
    let ring = StateDir::peek_key_ring(state)?.ok_or_else(|| VerbError::NotClosed(state.to_owned()))?;
    let own = own_addresses(StateDir::peek_listening(state)?);
    let ticket = ticket(&ring, StateDir::peek_id(state)?, own, &StateDir::peek(state)?);
    if ticket.connect().next().is_none() {
        return Err(VerbError::NoAddress(state.to_owned()));
    }
    if as_qr_code { qr_code(&ticket) } else { Ok(format!("{}\n", join_command(&ticket))) }
}

/// The command with which another node joins. It is as secret as the network key.
pub(crate) fn join_command(ticket: &Ticket) -> String {
    format!("{PROGRAM} --state DIR --join {}", *ticket.to_text())
}

/// A ticket that names this node and the members that it met last.
pub(crate) fn ticket(ring: &KeyRing, id: PeerId, own: Vec<DialAddr>, known: &[KnownPeer]) -> Ticket {
    let mut known: Vec<&KnownPeer> = known.iter().filter(|peer| !peer.left).collect();
    known.sort_by_key(|peer| (std::cmp::Reverse(peer.last_seen), peer.id));
    let others = known.into_iter().map(|peer| {
        let proven = peer.addrs.iter().filter(|addr| addr.last_success.is_some());
        (peer.id, proven.map(|addr| addr.addr.clone()).collect())
    });
    let members = std::iter::once((id, own)).chain(others);
    Ticket::new(ring, members.filter(|(_, addrs): &(_, Vec<_>)| !addrs.is_empty()).take(TICKET_MEMBERS_MAX))
}

/// The addresses at which others reach the node: those that it tells peers, then those of this machine's interfaces.
pub(crate) fn own_addresses(listening: Option<LastListening>) -> Vec<DialAddr> {
    let Some(LastListening { port, addrs, .. }) = listening else {
        return Vec::new();
    };
    if !addrs.is_empty() {
        return addrs;
    }
    local_addresses().into_iter().map(|ip| SocketAddr::new(ip, port).into()).collect()
}

/// The ticket as a QR code of block characters, dark on light, two rows of the code a line.
fn qr_code(ticket: &Ticket) -> Result<String, VerbError> {
    // QR codes encode upper-case letters in fewer dots.
    let text = ticket.to_text().to_uppercase();
    let code = QrCode::encode_text(&text, QrCodeEcc::Low).map_err(|_| VerbError::TooLongForQrCode)?;
    // Scanners need a light margin around the code.
    const MARGIN: i32 = 2;
    let range = -MARGIN..code.size() + MARGIN;
    let mut picture = String::new();
    for y in range.clone().step_by(2) {
        for x in range.clone() {
            // Most terminals are dark, so a drawn block is light.
            picture.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (false, false) => '\u{2588}',
                (false, true) => '\u{2580}',
                (true, false) => '\u{2584}',
                (true, true) => ' ',
            });
        }
        picture.push('\n');
    }
    let _ = writeln!(picture, "Join with: {PROGRAM} --state DIR --join TICKET");
    Ok(picture)
}
