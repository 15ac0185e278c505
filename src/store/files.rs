//! Files with secrets or state: written atomically, never over another file by accident, and checked for owner
//! and permissions before they are read.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// Permission bits of a file that only its owner may read and write.
pub(crate) const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// Permission bits of a file without secrets.
pub(crate) const PUBLIC: Mode = Mode::from_raw_mode(0o644);

/// Permission bits for users other than the owner.
const OTHERS: u32 = 0o077;
/// On a file with an access control list, this bit is set if a user on the list may read the file.
const ACCESS_LIST: u32 = 0o040;

/// The requirement that a file must meet before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileRequirement {
    /// None.
    Anything,
    /// Other users have no access to a regular file. A pipe is accepted as well: its mode means nothing, and a
    /// shell passes secrets through pipes.
    Private,
    /// A regular file in its directory, not a symbolic link.
    InPlace,
    /// As [`FileRequirement::InPlace`]; it belongs to the directory's owner and gives others no access.
    PrivateInPlace,
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The system's error.
    System(io::Error),
    /// Other users have access; the permission bits.
    TooPermissive(u32),
    /// The file belongs to another user, with this id.
    WrongOwner(u32),
    /// The file is a symbolic link.
    Link,
    /// The file is not a regular file.
    NoFile,
    /// The file is larger than the limit.
    TooLarge,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// Reads a file of at most `bytes_max` bytes that meets the requirement.
pub(crate) fn read(file: &Path, bytes_max: u64, requirement: FileRequirement) -> Result<Vec<u8>, ReadError> {
    let handle = OpenOptions::new().read(true).open(file)?;
    let is_lent = is_credential(file);
    read_checked(handle, bytes_max, requirement, is_lent, own_user())
}

/// Checks an open file, which can't be exchanged between the check and the read, and reads it.
fn read_checked(
    handle: File,
    bytes_max: u64,
    requirement: FileRequirement,
    is_credential: bool,
    owner: u32,
) -> Result<Vec<u8>, ReadError> {
    let metadata = handle.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    let is_private = matches!(requirement, FileRequirement::Private | FileRequirement::PrivateInPlace);
    let is_in_place = matches!(requirement, FileRequirement::InPlace | FileRequirement::PrivateInPlace);
    let mode = metadata.permissions().mode() & 0o7777;
    let forbidden = if is_credential { OTHERS & !ACCESS_LIST } else { OTHERS };
    if is_private && metadata.is_file() && mode & forbidden != 0 {
        return Err(ReadError::TooPermissive(mode));
    }
    if is_in_place && !metadata.is_file() {
        return Err(ReadError::NoFile);
    }
    if is_private && is_in_place && metadata.uid() != owner {
        return Err(ReadError::WrongOwner(metadata.uid()));
    }
    let mut bytes = Vec::new();
    handle.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(ReadError::TooLarge) } else { Ok(bytes) }
}

/// Whether the file is a secret that systemd keeps for this process (`LoadCredential=`). Such a file belongs to
/// root, and an access control list lets this process alone read it.
fn is_credential(file: &Path) -> bool {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    directory.is_some_and(|directory| directory.is_absolute() && file.parent() == Some(&*directory))
}

/// An open directory. Its files are reached through it, so another directory or a link in its place changes
/// nothing.
#[derive(Debug)]
pub(crate) struct Directory {
    handle: File,
    /// The path by which it was opened; for messages.
    path: PathBuf,
    owner: u32,
    group: u32,
}

impl Directory {
    /// Opens a directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let metadata = handle.metadata()?;
        Ok(Self { handle, path: path.to_owned(), owner: metadata.uid(), group: metadata.gid() })
    }

    /// Opens the directory of a file; returns the file's name in it, too.
    pub(crate) fn of(file: &Path) -> io::Result<(Self, &OsStr)> {
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((Self::open(directory.unwrap_or(Path::new(".")))?, name))
    }

    /// The path by which the directory was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the directory, for messages.
    pub(crate) fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// The user id of the owner.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// The permission bits, if they give other users access.
    pub(crate) fn open_to_others(&self) -> io::Result<Option<u32>> {
        let mode = self.handle.metadata()?.permissions().mode() & 0o7777;
        Ok((mode & OTHERS != 0).then_some(mode))
    }

    /// Sets the permission bits, whatever the process's umask is.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.handle.set_permissions(fs::Permissions::from_mode(mode))
    }

    /// Whether a file or link has this name.
    pub(crate) fn has(&self, name: &OsStr) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Reads a file of at most `bytes_max` bytes that meets the requirement.
    pub(crate) fn read(
        &self,
        name: &OsStr,
        bytes_max: u64,
        requirement: FileRequirement,
    ) -> Result<Vec<u8>, ReadError> {
        let is_in_place = matches!(requirement, FileRequirement::InPlace | FileRequirement::PrivateInPlace);
        // NONBLOCK: opening a pipe does not wait for its writer.
        let extra = if is_in_place { OFlags::NOFOLLOW | OFlags::NONBLOCK } else { OFlags::empty() };
        let handle = match self.open_file(name, OFlags::RDONLY | extra, Mode::empty()) {
            Err(Errno::LOOP) if is_in_place => return Err(ReadError::Link),
            opened => opened?,
        };
        read_checked(handle, bytes_max, requirement, false, self.owner)
    }

    /// Opens a file for reading and writing; creates it if there is none.
    pub(crate) fn open_or_create(&self, name: &OsStr, mode: Mode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.open_file(name, flags, mode)?;
        // Independent of the umask: the next process must be able to open the file.
        let _ = rustix::fs::fchmod(&file, mode);
        self.give_to(&file, self.owner, self.group)?;
        Ok(file)
    }

    /// Creates a new file. Even after a crash it has all of its bytes or does not exist; it is durable once this
    /// returns.
    ///
    /// # Errors
    /// `AlreadyExists` if a file or symbolic link has that name, or the system's error.
    pub(crate) fn create_new(&self, name: &OsStr, bytes: &[u8], mode: Mode) -> io::Result<()> {
        if self.has(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let owner = (self.owner, self.group);
        let temporary = self.write_temporary(name, bytes, mode, owner)?;
        let linked = match rustix::fs::linkat(&self.handle, &temporary, &self.handle, name, AtFlags::empty())
        {
            Err(error) if error != Errno::EXIST => {
                // On a file system without hard links, the creation is not atomic.
                self.write_new(name, bytes, mode, owner)
            }
            done => done.map_err(Into::into),
        };
        self.remove(&temporary);
        linked.and_then(|()| self.sync())
    }

    /// Creates or replaces a file. Even after a crash it has all bytes of the old content or of the new; the new
    /// content is durable once this returns. A file that is replaced keeps its permission bits, and its owner if
    /// the directory belongs to another user.
    pub(crate) fn replace(&self, name: &OsStr, bytes: &[u8], mode: Mode) -> io::Result<()> {
        let old = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW);
        let old = old.ok().filter(|old| FileType::from_raw_mode(old.st_mode).is_file());
        let (mode, owner) = old.map_or((mode, (self.owner, self.group)), |old| {
            (Mode::from_raw_mode(old.st_mode), (old.st_uid, old.st_gid))
        });
        let temporary = self.write_temporary(name, bytes, mode, owner)?;
        if let Err(error) = rustix::fs::renameat(&self.handle, &temporary, &self.handle, name) {
            self.remove(&temporary);
            return Err(error.into());
        }
        self.sync()
    }

    /// Removes a file. Its absence is no error, and neither is any other failure: the next write reports it.
    pub(crate) fn remove(&self, name: &OsStr) {
        let _ = rustix::fs::unlinkat(&self.handle, name, AtFlags::empty());
    }

    /// Removes the temporary file that [`Directory::create_new`] or [`Directory::replace`] left when their process
    /// was killed. No other process may be writing this file.
    pub(crate) fn remove_temporary(&self, name: &OsStr) {
        self.remove(&temporary_of(name));
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.handle.sync_all() {
            // The error of a file system that can't sync directories.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            done => done,
        }
    }

    fn open_file(&self, name: &OsStr, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        rustix::fs::openat(&self.handle, name, flags | OFlags::CLOEXEC, mode).map(File::from)
    }

    fn write_temporary(
        &self,
        name: &OsStr,
        bytes: &[u8],
        mode: Mode,
        owner: (u32, u32),
    ) -> io::Result<OsString> {
        let temporary = temporary_of(name);
        // A killed process may have left it.
        self.remove(&temporary);
        self.write_new(&temporary, bytes, mode, owner)?;
        Ok(temporary)
    }

    fn write_new(
        &self,
        name: &OsStr,
        bytes: &[u8],
        mode: Mode,
        (owner, group): (u32, u32),
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut file = self.open_file(name, flags, mode)?;
        let write = |file: &mut File| {
            // The process's umask may have removed permissions of the owner.
            rustix::fs::fchmod(&*file, mode)?;
            self.give_to(file, owner, group)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write(&mut file).inspect_err(|_| self.remove(name))
    }

    /// Gives a file to this user, if root works in the directory of another user.
    fn give_to(&self, file: &File, owner: u32, group: u32) -> io::Result<()> {
        if self.owner == own_user() || !is_root() {
            return Ok(());
        }
        Ok(rustix::fs::fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)))?)
    }
}

/// A file to read: by its path, or in an open directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Location<'a> {
    Path(&'a Path),
    In(&'a Directory, &'a OsStr),
}

impl Location<'_> {
    /// The path, for messages.
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Path(path) => path.to_owned(),
            Self::In(directory, name) => directory.path_of(name),
        }
    }

    /// Reads a file that other users must have no access to.
    pub(crate) fn read_secret(self, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
        match self {
            Self::Path(path) => read(path, bytes_max, FileRequirement::Private),
            Self::In(directory, name) => directory.read(name, bytes_max, FileRequirement::PrivateInPlace),
        }
    }

    /// Reads a file, whatever its permissions are.
    pub(crate) fn read_public(self, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
        match self {
            Self::Path(path) => read(path, bytes_max, FileRequirement::Anything),
            Self::In(directory, name) => directory.read(name, bytes_max, FileRequirement::Anything),
        }
    }
}

/// The temporary file is in the same directory, and so on the same file system.
fn temporary_of(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    temporary
}

/// Creates a new file, as [`Directory::create_new`].
pub(crate) fn create_new(file: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let (directory, name) = Directory::of(file)?;
    directory.create_new(name, bytes, mode)
}

/// The effective user id of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    own_user() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn new_file_is_private_and_never_replaces_another() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        create_new(&file, b"one", PRIVATE).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(create_new(&file, b"two", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        assert_eq!(create_new(&link, b"two", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(names(directory.path()), ["link", "secret"]);
    }

    #[test]
    fn temporary_file_of_a_killed_process_does_not_disturb() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        let (opened, name) = Directory::of(&file).unwrap();
        for remains in ["", "half of it"] {
            fs::write(file.with_file_name(temporary_of(name)), remains).unwrap();
            opened.replace(name, b"whole", PRIVATE).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"whole");
        }
        fs::write(file.with_file_name(temporary_of(name)), "half").unwrap();
        opened.remove_temporary(name);
        assert_eq!(names(directory.path()), ["state"]);
    }

    #[test]
    fn file_in_place_must_be_private_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        create_new(&file, b"key", PRIVATE).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        let in_place =
            |name: &str, bytes_max| opened.read(name.as_ref(), bytes_max, FileRequirement::PrivateInPlace);
        assert_eq!(in_place("key", 3).unwrap(), b"key");
        assert_eq!(read(&link, 3, FileRequirement::Private).unwrap(), b"key");
        for requirement in [FileRequirement::InPlace, FileRequirement::PrivateInPlace] {
            assert!(matches!(opened.read("link".as_ref(), 3, requirement), Err(ReadError::Link)));
        }
        assert!(matches!(in_place("key", 2), Err(ReadError::TooLarge)));
        for mode in [0o640, 0o620, 0o604, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let refused = in_place("key", 3);
            assert!(matches!(refused, Err(ReadError::TooPermissive(found)) if found == mode), "{refused:?}");
            assert!(matches!(read(&file, 3, FileRequirement::Private), Err(ReadError::TooPermissive(_))));
            assert!(read(&file, 3, FileRequirement::Anything).is_ok());
        }
    }

    #[test]
    fn directory_that_is_exchanged_for_a_link_is_written_no_more_by_its_path() {
        let parent = tempfile::tempdir().unwrap();
        let (place, moved, elsewhere) =
            (parent.path().join("state"), parent.path().join("moved"), parent.path().join("elsewhere"));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "victim").unwrap();
        let opened = Directory::open(&place).unwrap();
        fs::rename(&place, &moved).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &place).unwrap();
        opened.replace("file".as_ref(), b"ours", PRIVATE).unwrap();
        opened.create_new("new".as_ref(), b"ours", PRIVATE).unwrap();
        opened.open_or_create("lock".as_ref(), PRIVATE).unwrap();
        assert_eq!(opened.read("file".as_ref(), 9, FileRequirement::PrivateInPlace).unwrap(), b"ours");
        opened.remove_temporary("file".as_ref());
        assert_eq!(names(&moved), ["file", "lock", "new"]);
        assert_eq!(names(&elsewhere), ["file"]);
        assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"victim");
    }

    #[test]
    fn replaced_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        let (opened, name) = Directory::of(&file).unwrap();
        for mode in [0o600, 0o640] {
            fs::write(&file, "old").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            opened.replace(name, b"new", PRIVATE).unwrap();
            let metadata = fs::metadata(&file).unwrap();
            assert_eq!((metadata.permissions().mode() & 0o7777, metadata.len()), (mode, 3));
        }
    }
}
