//! The directory in which a node keeps what outlives it: its key, its certificate, its known peers.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::mesh::KnownPeer;
use crate::store::files::{self, FileRequirement};
use crate::store::known_peers::{self, KnownPeersError};
use crate::trust::identity::{Identity, IdentityError};

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const KNOWN_PEERS: &str = "known_peers.toml";
const LOCK: &str = "lock";

/// Permission bits of the directory: its owner's alone.
const DIRECTORY_MODE: u32 = 0o700;

/// A directory with a node's key and memory, held by this process alone until it is dropped.
///
/// It belongs to the user that the process runs as, and nobody else can read or write it.
///
/// ```no_run
/// use p2p_gossip::{Config, Node, StateDir};
/// let state = StateDir::open("/var/lib/p2p-gossip".as_ref())?;
/// let identity = state.identity()?;
/// let node = Node::start_with_state(Config::default(), identity, state)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    known: Vec<KnownPeer>,
    _lock: Lock,
}

/// The locked file. The system unlocks it when the process ends, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it does not do if another thread is just starting a program: until that has
        // begun, it has the file open as well.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// Opens the directory, made if it is not there, and reads the known peers.
    ///
    /// # Errors
    /// It can't be made, belongs to somebody else, is open to others or is used by another process;
    /// or the file of known peers can't be understood.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            // The process may have been started with a mask that leaves the owner less.
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE))
                .map_err(|source| StateError::Create { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Perhaps it is there, in a directory where nothing can be made.
            Err(_) if path.is_dir() => {}
            Err(source) => return Err(StateError::Create { path: path.to_owned(), source }),
        }
        Self::open_existing(path)
    }

    /// Opens the directory, which must be there.
    ///
    /// # Errors
    /// As [`StateDir::open`], and if it is not there.
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        let path = checked(path)?;
        let lock = lock(&path)?;
        // Nobody else may be about to use them.
        for name in [KEY, CERTIFICATE, KNOWN_PEERS] {
            files::remove_temporaries(&path.join(name));
        }
        let known = known_peers::read(&path.join(KNOWN_PEERS))?;
        Ok(Self { path, known, _lock: lock })
    }

    /// The node's key and certificate from here, each made if it is not there.
    ///
    /// # Errors
    /// Either can't be read, used or made, or they don't belong together.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let (key, cert) = (self.path.join(KEY), self.path.join(CERTIFICATE));
        let is_there = |file: &Path| file.symlink_metadata().is_ok();
        match (is_there(&key), is_there(&cert)) {
            (true, true) => {
                Identity::from_pair(&key, &cert, FileRequirement::PrivateInPlace).map_err(|error| match error
                {
                    IdentityError::Mismatch { .. } => StateError::Mismatch { key, cert },
                    other => StateError::Identity(other),
                })
            }
            (true, false) => {
                let identity = Identity::from_key(&key, FileRequirement::PrivateInPlace)?;
                identity.write_certificate(&cert)?;
                Ok(identity)
            }
            (false, false) => Ok(Identity::create_files(&key, &cert)?),
            (false, true) => Err(StateError::KeyMissing { key, cert }),
        }
    }

    /// The peers that were known when the directory was opened, or last forgotten.
    #[must_use]
    pub fn known_peers(&self) -> &[KnownPeer] {
        &self.known
    }

    /// Forgets a peer for good. Whether it was known.
    ///
    /// # Errors
    /// The file can't be written; then nothing is forgotten.
    pub fn forget(&mut self, peer: &crate::PeerId) -> Result<bool, StateError> {
        let kept: Vec<KnownPeer> = self.known.iter().filter(|known| known.id != *peer).cloned().collect();
        let was_known = kept.len() < self.known.len();
        if was_known {
            self.remember(&kept)
                .map_err(|source| StateError::Write { file: self.path.join(KNOWN_PEERS), source })?;
            self.known = kept;
        }
        Ok(was_known)
    }

    /// Replaces the file of known peers.
    pub(crate) fn remember(&self, peers: &[KnownPeer]) -> io::Result<()> {
        known_peers::write(&self.path.join(KNOWN_PEERS), peers)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The known peers in a directory that another process may be using.
    ///
    /// # Errors
    /// It is not there, belongs to somebody else, is open to others, or its file of known peers
    /// can't be understood.
    pub fn peek(path: &Path) -> Result<Vec<KnownPeer>, StateError> {
        Ok(known_peers::read(&checked(path)?.join(KNOWN_PEERS))?)
    }

    /// The id of the key in a directory that another process may be using.
    ///
    /// # Errors
    /// As [`StateDir::peek`], for the key.
    pub fn peek_id(path: &Path) -> Result<crate::PeerId, StateError> {
        Ok(Identity::from_key(&checked(path)?.join(KEY), FileRequirement::PrivateInPlace)?.id())
    }
}

/// A directory of ours that is closed to others, by a name that stays right wherever we go.
fn checked(path: &Path) -> Result<PathBuf, StateError> {
    let unusable = |source| StateError::Open { path: path.to_owned(), source };
    let path = path.canonicalize().map_err(unusable)?;
    let metadata = path.metadata().map_err(unusable)?;
    if !metadata.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    if metadata.uid() != files::own_user() {
        return Err(StateError::WrongOwner { path, owner: metadata.uid(), ours: files::own_user() });
    }
    match files::open_to_others(&metadata) {
        Some(mode) => Err(StateError::TooPermissive { path, mode }),
        None => Ok(path),
    }
}

fn lock(directory: &Path) -> Result<Lock, StateError> {
    let path = directory.join(LOCK);
    let failed = |source| StateError::Lock { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(files::PRIVATE);
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let mut file = options.open(&path).map_err(failed)?;
    // Whatever the mask says: the next start must be able to open it.
    let _ = file.set_permissions(fs::Permissions::from_mode(files::PRIVATE));
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Whatever is in there is somebody's process id, or no help.
            let _ = (&file).take(32).read_to_string(&mut holder);
            let pid = holder.trim().parse().ok();
            return Err(StateError::InUse { path: directory.to_owned(), pid });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // For whoever meets the lock; a full disk is no reason not to go on.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = writeln!(file, "{}", std::process::id());
    Ok(Lock(file))
}

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory can't be made.
    #[error("cannot make the state directory {}: {source}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory can't be used.
    #[error("cannot use the state directory {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory belongs to another user.
    #[error("the state directory {} belongs to the user with the number {owner}, and this runs as {ours}; run it as its owner, or name a directory of your own", path.display())]
    WrongOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who this process runs as.
        ours: u32,
    },
    /// Other users can read or write the directory.
    #[error("the state directory {} is open to other users (mode {mode:04o}); run: chmod 700 {}", path.display(), path.display())]
    TooPermissive {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process uses the directory.
    #[error("the state directory {} is in use{}; give each node a directory of its own", path.display(), by(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, if it has left its number.
        pid: Option<u32>,
    },
    /// The lock can't be made or taken.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key or certificate can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is for another key.
    #[error("{} is not the certificate of {}; move it away, and one is made for the key", cert.display(), key.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// The certificate is there, its key is not: a new key would be another identity.
    #[error("{} is missing, and {} is there; put the key back, or move the certificate away to begin with a new key", key.display(), cert.display())]
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
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
