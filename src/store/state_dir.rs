//! The state directory: a node's key, certificate and known peers, which outlive its process.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::mesh::KnownPeer;
use crate::net::addr::DialAddr;
use crate::store::exchange::{self, ExchangeError};
use crate::store::files::{self, Directory, FileRequirement, Location, PRIVATE};
use crate::store::known_peers;
use crate::store::known_peers_error::KnownPeersError;
use crate::trust::identity::{Identity, IdentityError};
use crate::trust::key_ring::KeyRing;
use crate::trust::network_key::{NetworkKey, NetworkKeyError};
use crate::trust::secret_text::is_secret_name;
use crate::trust::ticket::Ticket;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const KNOWN_PEERS: &str = "known_peers.toml";
const NETWORK_KEY: &str = "network.key";
const LOCK: &str = "lock";

/// Largest accepted file of network keys in bytes: keys and comments.
const NETWORK_KEY_BYTES_MAX: u64 = 64 * 1024;
/// Largest size of the locked file in bytes: a process id, a port and the longest addresses.
const LOCK_BYTES_MAX: u64 = 4096;

/// Permission bits of the directory: only its owner has access.
const DIRECTORY_MODE: u32 = 0o700;

/// A directory with a node's key and known peers, locked by this process until it is dropped.
///
/// It belongs to the user that runs the process, and other users have no access.
///
/// ```no_run
/// use p2p_gossip::{Config, Node, StateDir};
/// let state = StateDir::open("/var/lib/p2p-gossip".as_ref())?;
/// let identity = state.identity()?;
/// let node = Node::builder(Config::default(), identity).state(state).start()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateDir {
    directory: Directory,
    known: Vec<KnownPeer>,
    lock: Lock,
}

/// The locked file. The system unlocks it whenever the process ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while another thread starts a program: until exec, the child process has
        // the file open as well.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// Opens the directory and reads the known peers. Creates the directory if it does not exist.
    ///
    /// # Errors
    /// The directory can't be created, belongs to another user, gives others access, can be exchanged by others or is
    /// used by another process; or the file of known peers is damaged.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if is_secret_name(path) {
            return Err(StateError::KeyAsName);
        }
        let creation_failed = |source| StateError::Create { path: path.to_owned(), source };
        exchange::refuse(path, files::own_user())?;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Ok(()) => {
                // The process's umask may have removed permissions of the owner.
                let directory = Directory::open(path).map_err(creation_failed)?;
                directory.set_mode(DIRECTORY_MODE).map_err(creation_failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The directory may exist in a parent where nothing can be created.
            Err(_) if path.is_dir() => {}
            Err(source) => return Err(creation_failed(source)),
        }
        Self::open_checked(open_directory(path, Access::Owner)?)
    }

    /// Opens an existing directory, to change it while no node uses it. Root may change the directory of another
    /// user; files keep their owners.
    ///
    /// # Errors
    /// As [`StateDir::open`], and if the directory does not exist.
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        Self::open_checked(open_directory(path, Access::OwnerOrRoot)?)
    }

    fn open_checked(directory: Directory) -> Result<Self, StateError> {
        let lock = lock(&directory)?;
        // This process holds the lock, so no other process is writing them.
        for name in [KEY, CERTIFICATE, KNOWN_PEERS, NETWORK_KEY] {
            directory.remove_temporary(name.as_ref());
        }
        let known = known_peers::read(&directory, KNOWN_PEERS.as_ref())?;
        Ok(Self { directory, known, lock })
    }

    /// Reads the node's key and certificate. Creates those that do not exist.
    ///
    /// # Errors
    /// Either can't be read, used or created, the certificate is for another key, or only the key is missing.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let directory = &self.directory;
        let (key, cert): (&OsStr, &OsStr) = (KEY.as_ref(), CERTIFICATE.as_ref());
        let paths = || (directory.path_of(key), directory.path_of(cert));
        match (directory.has(key), directory.has(cert)) {
            (true, true) => {
                let files = (Location::In(directory, key), Location::In(directory, cert));
                Identity::from_pair(files.0, files.1).map_err(|error| {
                    let (key, cert) = paths();
                    match error {
                        IdentityError::Mismatch { .. } => StateError::Mismatch { key, cert },
                        IdentityError::Empty { file, .. } if file == cert => {
                            StateError::EmptyCertificate { cert }
                        }
                        other => StateError::Identity(other),
                    }
                })
            }
            (true, false) => {
                let identity = Identity::from_key(Location::In(directory, key))?;
                identity.write_certificate(directory, cert)?;
                Ok(identity)
            }
            (false, false) => Ok(Identity::create_in((directory, key), (directory, cert))?),
            (false, true) => {
                let (key, cert) = paths();
                Err(StateError::KeyMissing { key, cert })
            }
        }
    }

    /// The known peers as of the opening of the directory or the last [`StateDir::forget`].
    #[must_use]
    pub fn known_peers(&self) -> &[KnownPeer] {
        &self.known
    }

    /// Removes a peer from the known peers and from their file. Returns whether it was known.
    ///
    /// # Errors
    /// The file can't be written. Then the peer is still known.
    pub fn forget(&mut self, peer: &crate::PeerId) -> Result<bool, StateError> {
        let kept: Vec<KnownPeer> = self.known.iter().filter(|known| known.id != *peer).cloned().collect();
        let was_known = kept.len() < self.known.len();
        if was_known {
            self.write_known_peers(&kept).map_err(|source| {
                let file = self.directory.path_of(KNOWN_PEERS);
                StateError::Write { file, source }
            })?;
            self.known = kept;
        }
        Ok(was_known)
    }

    /// The keys of the network that this node belongs to, which may change while it runs; `None` if the directory has
    /// none.
    ///
    /// # Errors
    /// The file can't be read, is readable by others or damaged. The error names the file, and the line at fault.
    pub fn key_ring(&self) -> Result<Option<KeyRing>, StateError> {
        read_key_ring(&self.directory)
    }

    /// Closes the network of a new node: makes a network key, unless the directory has one.
    ///
    /// # Errors
    /// The key can't be made or written, or the directory's key can't be used.
    pub fn close_network(&self) -> Result<KeyRing, StateError> {
        if let Some(ring) = self.key_ring()? {
            return Ok(ring);
        }
        let ring = KeyRing::new(NetworkKey::generate()?);
        self.store_key_ring(&ring)?;
        Ok(ring)
    }

    /// Joins the network of a ticket: stores its key, unless the directory has a later one of the same network.
    ///
    /// # Errors
    /// The directory belongs to another network, or its key can't be used or written.
    pub fn join_network(&self, ticket: &Ticket) -> Result<(), StateError> {
        let told = ticket.key_ring();
        let Some(ring) = self.key_ring()? else {
            return self.store_key_ring(&told);
        };
        if ring.network() != told.network() {
            let file = self.directory.path_of(NETWORK_KEY);
            return Err(StateError::OtherNetwork { file });
        }
        if ring.generation() < told.generation() { self.store_key_ring(&told) } else { Ok(()) }
    }

    fn store_key_ring(&self, ring: &KeyRing) -> Result<(), StateError> {
        self.write_key_ring(ring).map_err(|source| {
            let file = self.directory.path_of(NETWORK_KEY);
            NetworkKeyError::Write { file, source }.into()
        })
    }

    /// Reads the network keys without the lock; another process may use the directory. Root may read the directory of
    /// another user.
    ///
    /// # Errors
    /// As [`StateDir::peek`], for the network keys.
    pub fn peek_key_ring(path: &Path) -> Result<Option<KeyRing>, StateError> {
        read_key_ring(&open_directory(path, Access::OwnerOrRoot)?)
    }

    /// Replaces the file of the network keys.
    pub(crate) fn write_key_ring(&self, ring: &KeyRing) -> io::Result<()> {
        self.directory.replace(NETWORK_KEY.as_ref(), ring.to_text().as_bytes(), PRIVATE)
    }

    /// Replaces the file of known peers.
    pub(crate) fn write_known_peers(&self, peers: &[KnownPeer]) -> io::Result<()> {
        known_peers::write(&self.directory, KNOWN_PEERS.as_ref(), peers)
    }

    /// The directory's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Reads the known peers without the lock; another process may use the directory. Root may read the directory of
    /// another user.
    ///
    /// # Errors
    /// The directory does not exist, belongs to another user or gives others access, or its file of known
    /// peers is damaged.
    pub fn peek(path: &Path) -> Result<Vec<KnownPeer>, StateError> {
        let directory = open_directory(path, Access::OwnerOrRoot)?;
        Ok(known_peers::read(&directory, KNOWN_PEERS.as_ref())?)
    }

    /// Notes in the locked file where the node listens, for [`StateDir::peek_listening`].
    pub(crate) fn note_listening(&self, port: u16, addrs: &[DialAddr]) {
        let Lock(file) = &self.lock;
        let mut text = format!("{}\n{port}\n", std::process::id());
        for addr in addrs {
            text.push_str(&format!("{addr}\n"));
        }
        // A full disk does not stop a node. Then a ticket lacks the node's own addresses.
        let mut file = file;
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
    }

    /// Where the node listens that uses the directory, or used it last; `None` if the directory does not say.
    ///
    /// # Errors
    /// As [`StateDir::peek`].
    pub fn peek_listening(path: &Path) -> Result<Option<LastListening>, StateError> {
        let directory = open_directory(path, Access::OwnerOrRoot)?;
        let Ok(bytes) = directory.read(LOCK.as_ref(), LOCK_BYTES_MAX, FileRequirement::InPlace) else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().skip(1);
        let port = lines.next().and_then(|port| port.parse().ok());
        Ok(port
            .map(|port| LastListening { port, addrs: lines.filter_map(|addr| addr.parse().ok()).collect() }))
    }

    /// Reads the id of the key without the lock; another process may use the directory. Root may read the directory
    /// of another user.
    ///
    /// # Errors
    /// As [`StateDir::peek`], for the key.
    pub fn peek_id(path: &Path) -> Result<crate::PeerId, StateError> {
        let directory = open_directory(path, Access::OwnerOrRoot)?;
        Ok(Identity::from_key(Location::In(&directory, KEY.as_ref()))?.id())
    }
}

fn read_key_ring(directory: &Directory) -> Result<Option<KeyRing>, StateError> {
    let name: &OsStr = NETWORK_KEY.as_ref();
    if !directory.has(name) {
        return Ok(None);
    }
    let file = || directory.path_of(name);
    let read = Location::In(directory, name).read_secret(NETWORK_KEY_BYTES_MAX);
    let bytes = read.map_err(|error| NetworkKeyError::from_read(file(), error))?;
    let ring = KeyRing::parse(&Zeroizing::new(bytes));
    ring.map(Some).map_err(|line| NetworkKeyError::in_file(file(), line).into())
}

/// The users that may open a state directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Its owner, because a node's own files must not become another user's.
    Owner,
    OwnerOrRoot,
}

/// Opens the directory. Checks that it belongs to this user, gives others no access and can't be exchanged by them.
fn open_directory(path: &Path, access: Access) -> Result<Directory, StateError> {
    if is_secret_name(path) {
        return Err(StateError::KeyAsName);
    }
    let unusable = |source: io::Error| {
        // The kind has the shorter text.
        let is_file = source.kind() == io::ErrorKind::NotADirectory;
        let source = if is_file { io::ErrorKind::NotADirectory.into() } else { source };
        StateError::Open { path: path.to_owned(), source }
    };
    let directory = Directory::open(&path.canonicalize().map_err(unusable)?).map_err(unusable)?;
    let (owner, ours, path) = (directory.owner(), files::own_user(), directory.path().to_owned());
    if owner != ours && !(access == Access::OwnerOrRoot && files::is_root()) {
        return Err(StateError::WrongOwner { path, owner, ours });
    }
    if let Some(mode) = directory.open_to_others().map_err(unusable)? {
        return Err(StateError::TooPermissive { path, mode });
    }
    exchange::refuse(&path, owner)?;
    Ok(directory)
}

fn lock(directory: &Directory) -> Result<Lock, StateError> {
    let path = || directory.path_of(LOCK);
    let failed = |source| StateError::Lock { path: path(), source };
    let mut file = directory.open_or_create(LOCK.as_ref(), files::PRIVATE).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The first line is the process id of the lock's holder, or nothing useful.
            let _ = (&file).take(LOCK_BYTES_MAX).read_to_string(&mut holder);
            let pid = holder.lines().next().and_then(|pid| pid.trim().parse().ok());
            return Err(StateError::InUse { path: directory.path().to_owned(), pid });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // For the error message of another process. A full disk does not prevent the lock.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = writeln!(file, "{}", std::process::id());
    Ok(Lock(file))
}

/// The addresses of the node that uses a directory, or used it last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastListening {
    /// The port that the node listens on.
    pub port: u16,
    /// The addresses that it tells peers, best first; none if it listens on every interface and the user gave none.
    pub addrs: Vec<DialAddr>,
}

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory can't be created.
    #[error("cannot make the state directory {}: {source}", path.display())]
    #[non_exhaustive]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory can't be opened.
    #[error("cannot use the state directory {}: {source}", path.display())]
    #[non_exhaustive]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory belongs to another user.
    #[error("the state directory {} belongs to user {owner}, and this runs as user {ours}; run it as the owner, or name another directory", path.display())]
    #[non_exhaustive]
    WrongOwner {
        /// The directory.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The user id of this process.
        ours: u32,
    },
    /// Other users have access to the directory.
    #[error("the state directory {} is accessible to other users (mode {mode:04o}); run: chmod 700 {}", path.display(), path.display())]
    #[non_exhaustive]
    TooPermissive {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users can put another directory in the place of this one.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The directory has the key of another network than the ticket's.
    #[error("the ticket is for another network than the key in {}; use another directory, or remove that file to leave the old network", file.display())]
    #[non_exhaustive]
    OtherNetwork {
        /// The file with the key.
        file: PathBuf,
    },
    /// The network key can't be read or written.
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
    /// The caller passed a key instead of the name of a directory.
    #[error("the name of a directory is needed, not the text of a key")]
    KeyAsName,
    /// Another process uses the directory.
    #[error("the state directory {} is in use{}; give each node a separate directory", path.display(), by_process(*pid))]
    #[non_exhaustive]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The id of that process, if the lock holds it.
        pid: Option<u32>,
    },
    /// The lock can't be created or taken.
    #[error("cannot lock {}: {source}", path.display())]
    #[non_exhaustive]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The key or certificate can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is for another key.
    #[error("{} is not the certificate of {}; move it away, and p2p-gossip makes a new one for the key", cert.display(), key.display())]
    #[non_exhaustive]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The certificate's file is empty.
    #[error("{} is empty; move it away, and p2p-gossip makes a new certificate for the key", cert.display())]
    #[non_exhaustive]
    EmptyCertificate {
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The certificate exists without its key. A new key would be another identity.
    #[error("{} is missing, but {} exists; put the key back, or move the certificate away to begin with a new key", key.display(), cert.display())]
    #[non_exhaustive]
    KeyMissing {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The known peers can't be read.
    #[error(transparent)]
    KnownPeers(#[from] KnownPeersError),
    /// The known peers can't be written.
    #[error("cannot write {}: {source}", file.display())]
    #[non_exhaustive]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
