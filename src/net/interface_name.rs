//! Names of network interfaces, and the indices that the system gives them.

use std::fmt;
use std::io;

/// Bytes in the name of a network interface: `IFNAMSIZ` without its final NUL (netdevice(7)).
const INTERFACE_BYTES_MAX: usize = 15;

/// The name of a network interface, such as `eth0`. Whether this machine has it is another question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    /// The name, filled up with zeros.
    bytes: [u8; INTERFACE_BYTES_MAX],
}

impl InterfaceName {
    /// Checks a name; `None` if no system accepts it.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_allowed = |b: u8| b.is_ascii_graphic() && !b"/:%[]".contains(&b);
        let is_name = name.bytes().all(is_allowed) && !matches!(name, "" | "." | "..");
        let mut bytes = [0; INTERFACE_BYTES_MAX];
        bytes.get_mut(..name.len()).filter(|_| is_name)?.copy_from_slice(name.as_bytes());
        Some(Self { bytes })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|&b| b == 0).unwrap_or(INTERFACE_BYTES_MAX);
        // Only ASCII is accepted, so this is always text.
        std::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }

    /// The interface's index now.
    ///
    /// # Errors
    /// This machine has no such interface now. (Only Linux and Android look names up.)
    pub(crate) fn index(&self) -> io::Result<u32> {
        index_of(self.as_str()).ok_or_else(|| {
            let text = format!("this machine has no network interface '{self}' now");
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn index_of(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    // Any kind of socket will do (netdevice(7)).
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

/// Other systems know an interface's index only.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn index_of(_name: &str) -> Option<u32> {
    None
}

/// The name of the interface with this index, if this machine has it now.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn name_of(index: u32) -> Option<InterfaceName> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    InterfaceName::new(&netdevice::index_to_name(&socket, index).ok()?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn name_of(_index: u32) -> Option<InterfaceName> {
    None
}
