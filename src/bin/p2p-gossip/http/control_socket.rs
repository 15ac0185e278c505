//! The control socket in the file system: made for its owner alone, replaced if its process is dead, removed at the end.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use p2p_gossip::internals::is_secret_name;
use rustix::fs::{Mode, OFlags, fchmod};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;

/// The longest path of a Unix socket on Linux, in bytes (unix(7): 108 with the final zero).
const PATH_BYTES_MAX: usize = 107;
/// Connections that may wait in the kernel to be accepted: programs of one user.
const BACKLOG: i32 = 128;

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("a node listens at the control socket {} already; stop it first, or choose another --control", .0.display())]
    InUse(PathBuf),
    #[error("cannot make the control socket {}: there is a file that is no socket", .0.display())]
    NotASocket(PathBuf),
    #[error("the name of a control socket is needed, not a key itself")]
    KeyAsName,
    #[error("cannot make the control socket {}: {source}", path.display())]
    System { path: PathBuf, source: io::Error },
}

/// The listening control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    file: ControlFile,
}

/// The file of a control socket; removed when this is dropped, unless another process has replaced it.
#[derive(Debug)]
pub(crate) struct ControlFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for ControlFile {
    fn drop(&mut self) {
        let is_ours = |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Opens the socket. A socket at which no process listens is replaced.
    pub(crate) fn open(path: &Path) -> Result<Self, ControlError> {
        if is_key(path) {
            return Err(ControlError::KeyAsName);
        }
        let failed = |source| ControlError::System { path: path.to_owned(), source };
        let listener = match bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                make_room(path)?;
                bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(failed)?;
        let found = fs::symlink_metadata(path).map_err(failed)?;
        let file = ControlFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        Ok(Self { listener, file })
    }

    pub(super) fn into_parts(self) -> (UnixListener, ControlFile) {
        (self.listener, self.file)
    }
}

/// Whether the text of a key was given instead of a name, of the socket or of its directory: no message may show it.
pub(super) fn is_key(path: &Path) -> bool {
    is_secret_name(path) || path.parent().is_some_and(is_secret_name)
}

/// Removes the socket of a dead process.
fn make_room(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(ControlError::InUse(path.to_owned())),
    }
}

/// Makes the socket for its owner alone. Linux gives the file the mode of the socket. A change of the file's mode by its
/// path could follow a link that another user puts there meanwhile.
fn bind(path: &Path) -> io::Result<UnixListener> {
    with_short_path(path, |path| {
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        net::listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    })
}

/// Connects to a control socket.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |path| UnixStream::connect(path))
}

/// Calls `use_path` with a path of this file that is short enough for a Unix socket: for a long one, a path through the
/// descriptor of its directory.
fn with_short_path<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        return use_path(path);
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    if short.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
        let text = "the name of the file is too long for a socket: choose one below 80 bytes";
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    use_path(&short)
}

/// The socket as the type that the HTTP code reads and writes. All that it calls works on any stream socket: reads,
/// writes, time limits and shutdown.
pub(super) fn as_stream(socket: UnixStream) -> TcpStream {
    TcpStream::from(OwnedFd::from(socket))
}

/// Whether the process at the other end belongs to this process's user or to root, or this process to root.
pub(super) fn is_own_user(socket: &TcpStream) -> bool {
    let own = geteuid();
    socket_peercred(socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
}

/// As [`is_own_user`], but root may ask a node of any user.
pub(super) fn is_trusted_server(socket: &TcpStream) -> bool {
    geteuid().is_root() || is_own_user(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn stale_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let first = ControlSocket::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(ControlSocket::open(&path), Err(ControlError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        assert!(matches!(ControlSocket::open(&path), Err(ControlError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn file_that_another_process_has_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let first = ControlSocket::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ControlSocket::open(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn long_path_works_and_a_long_name_has_a_clear_error() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("control");
        let socket = ControlSocket::open(&path).unwrap();
        assert!(path.exists() && connect(&path).is_ok());
        assert!(matches!(ControlSocket::open(&path), Err(ControlError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
        let error = ControlSocket::open(&deep.join("f".repeat(100))).unwrap_err();
        assert!(error.to_string().contains("too long for a socket"), "{error}");
    }
}
