//! The state directory: a node's key, certificate and known peers, which outlive its process.

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
    path: PathBuf,
    known: Vec<KnownPeer>,
    _lock: Lock,
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
    /// The directory can't be created, belongs to another user, gives others access or is used by another
    /// process; or the file of known peers is damaged.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            // The process's umask may have removed permissions of the owner.
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE))
                .map_err(|source| StateError::Create { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The directory may exist in a parent where nothing can be created.
            Err(_) if path.is_dir() => {}
            Err(source) => return Err(StateError::Create { path: path.to_owned(), source }),
        }
        Self::open_existing(path)
    }

    /// Opens an existing directory.
    ///
    /// # Errors
    /// As [`StateDir::open`], and if the directory does not exist.
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        let path = check_directory(path)?;
        let lock = lock(&path)?;
        // This process holds the lock, so no other process is writing them.
        for name in [KEY, CERTIFICATE, KNOWN_PEERS] {
            files::remove_temporaries(&path.join(name));
        }
        let known = known_peers::read(&path.join(KNOWN_PEERS))?;
        Ok(Self { path, known, _lock: lock })
    }

    /// Reads the node's key and certificate. Creates those that do not exist.
    ///
    /// # Errors
    /// Either can't be read, used or created, the certificate is for another key, or only the key is missing.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let (key, cert) = (self.path.join(KEY), self.path.join(CERTIFICATE));
        let exists = |file: &Path| file.symlink_metadata().is_ok();
        match (exists(&key), exists(&cert)) {
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
            self.write_known_peers(&kept)
                .map_err(|source| StateError::Write { file: self.path.join(KNOWN_PEERS), source })?;
            self.known = kept;
        }
        Ok(was_known)
    }

    /// Replaces the file of known peers.
    pub(crate) fn write_known_peers(&self, peers: &[KnownPeer]) -> io::Result<()> {
        known_peers::write(&self.path.join(KNOWN_PEERS), peers)
    }

    /// The directory's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the known peers without the lock; another process may use the directory.
    ///
    /// # Errors
    /// The directory does not exist, belongs to another user or gives others access, or its file of known
    /// peers is damaged.
    pub fn peek(path: &Path) -> Result<Vec<KnownPeer>, StateError> {
        Ok(known_peers::read(&check_directory(path)?.join(KNOWN_PEERS))?)
    }

    /// Reads the id of the key without the lock; another process may use the directory.
    ///
    /// # Errors
    /// As [`StateDir::peek`], for the key.
    pub fn peek_id(path: &Path) -> Result<crate::PeerId, StateError> {
        Ok(Identity::from_key(&check_directory(path)?.join(KEY), FileRequirement::PrivateInPlace)?.id())
    }
}

/// Checks that the directory belongs to this user and gives others no access. Returns its absolute path.
fn check_directory(path: &Path) -> Result<PathBuf, StateError> {
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
    // Independent of the umask: the next process must be able to open the file.
    let _ = file.set_permissions(fs::Permissions::from_mode(files::PRIVATE));
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The file holds the process id of the lock's holder, or nothing useful.
            let _ = (&file).take(32).read_to_string(&mut holder);
            let pid = holder.trim().parse().ok();
            return Err(StateError::InUse { path: directory.to_owned(), pid });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // For the error message of another process. A full disk does not prevent the lock.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = writeln!(file, "{}", std::process::id());
    Ok(Lock(file))
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
