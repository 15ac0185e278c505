//! Files with secrets or state: written atomically, never over another file by accident, and checked for owner
//! and permissions before they are read.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Permission bits of a file that only its owner may read and write.
pub(crate) const PRIVATE: u32 = 0o600;
/// Permission bits of a file without secrets.
pub(crate) const PUBLIC: u32 = 0o644;

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
    /// A regular file, not a symbolic link, that belongs to this process's user and gives others no access.
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

/// Reads a file of at most `bytes_max` bytes that meets the requirement.
pub(crate) fn read(file: &Path, bytes_max: u64, requirement: FileRequirement) -> Result<Vec<u8>, ReadError> {
    let mut options = OpenOptions::new();
    options.read(true);
    if requirement == FileRequirement::PrivateInPlace {
        // NONBLOCK: opening a pipe does not wait for its writer.
        options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    }
    let handle = match options.open(file) {
        Ok(handle) => handle,
        Err(_) if requirement == FileRequirement::PrivateInPlace && is_link(file) => {
            return Err(ReadError::Link);
        }
        Err(error) => return Err(error.into()),
    };
    // The metadata of the open file, which can't be exchanged between the check and the read.
    let metadata = handle.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let forbidden = if is_credential(file) { OTHERS & !ACCESS_LIST } else { OTHERS };
    if requirement != FileRequirement::Anything && metadata.is_file() && mode & forbidden != 0 {
        return Err(ReadError::TooPermissive(mode));
    }
    if requirement == FileRequirement::PrivateInPlace {
        if !metadata.is_file() {
            return Err(ReadError::NoFile);
        }
        if metadata.uid() != own_user() {
            return Err(ReadError::WrongOwner(metadata.uid()));
        }
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

/// Creates a new file. Even after a crash it has all of its bytes or does not exist; it is durable once this
/// returns.
///
/// # Errors
/// `AlreadyExists` if a file or symbolic link has that name, or the system's error.
pub(crate) fn create_new(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if file.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let temporary = write_temporary(file, bytes, mode)?;
    let linked = match fs::hard_link(&temporary, file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // On a file system without hard links, the creation is not atomic.
            write_new(file, bytes, mode)
        }
        done => done,
    };
    let _ = fs::remove_file(&temporary);
    linked.and_then(|()| sync_directory_of(file))
}

/// Creates or replaces a file. Even after a crash it has all bytes of the old content or of the new; the new
/// content is durable once this returns.
pub(crate) fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(file, bytes, mode)?;
    if let Err(error) = fs::rename(&temporary, file) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory_of(file)
}

/// Removes the temporary file that [`create_new`] or [`replace`] left when their process was killed. No other
/// process may be writing this file.
pub(crate) fn remove_temporaries(file: &Path) {
    // If this fails, the next write reports the error.
    let _ = fs::remove_file(temporary_of(file));
}

/// The effective user id of this process.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The permission bits, if they give other users access.
pub(crate) fn open_to_others(metadata: &fs::Metadata) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & OTHERS != 0).then_some(mode)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // The error of a file system that can't sync directories.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn is_link(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

fn write_temporary(file: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let temporary = temporary_of(file);
    // A killed process may have left it.
    let _ = fs::remove_file(&temporary);
    write_new(&temporary, bytes, mode)?;
    Ok(temporary)
}

/// The temporary file is in the same directory, and so on the same file system.
fn temporary_of(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".tmp");
    file.with_file_name(name)
}

fn write_new(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut handle = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(flags(OFlags::NOFOLLOW))
        .open(file)?;
    let write = |handle: &mut File| {
        // The process's umask may have removed permissions of the owner.
        handle.set_permissions(fs::Permissions::from_mode(mode))?;
        handle.write_all(bytes)?;
        handle.sync_all()
    };
    write(&mut handle).inspect_err(|_| {
        let _ = fs::remove_file(file);
    })
}

fn sync_directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(directory.unwrap_or(Path::new(".")))
}

fn flags(flags: OFlags) -> i32 {
    // The two types differ in sign only.
    flags.bits().cast_signed()
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
        for remains in ["", "half of it"] {
            fs::write(temporary_of(&file), remains).unwrap();
            replace(&file, b"whole", PRIVATE).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"whole");
        }
        fs::write(temporary_of(&file), "half").unwrap();
        remove_temporaries(&file);
        assert_eq!(names(directory.path()), ["state"]);
    }

    #[test]
    fn file_in_place_must_be_private_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        create_new(&file, b"key", PRIVATE).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&file, 3, FileRequirement::PrivateInPlace).unwrap(), b"key");
        assert_eq!(read(&link, 3, FileRequirement::Private).unwrap(), b"key");
        assert!(matches!(read(&link, 3, FileRequirement::PrivateInPlace), Err(ReadError::Link)));
        assert!(matches!(read(&file, 2, FileRequirement::PrivateInPlace), Err(ReadError::TooLarge)));
        for mode in [0o640, 0o620, 0o604, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let refused = read(&file, 3, FileRequirement::PrivateInPlace);
            assert!(matches!(refused, Err(ReadError::TooPermissive(found)) if found == mode), "{refused:?}");
            assert!(matches!(read(&file, 3, FileRequirement::Private), Err(ReadError::TooPermissive(_))));
            assert!(read(&file, 3, FileRequirement::Anything).is_ok());
        }
    }
}
