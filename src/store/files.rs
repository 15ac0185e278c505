//! Files that hold secrets or memory: written whole or not at all, never over another by accident,
//! and looked at closely before they are read.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Permission bits of a file that only its owner may read and write.
pub(crate) const PRIVATE: u32 = 0o600;
/// Permission bits of a file that is no secret.
pub(crate) const PUBLIC: u32 = 0o644;

/// Permission bits that let others than the owner read, write or execute.
const OTHERS: u32 = 0o077;
/// The bit that says of a file with an access control list that somebody on the list may read it.
const ACCESS_LIST: u32 = 0o040;

/// What is demanded of a file before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileRequirement {
    /// Nothing.
    Anything,
    /// A regular file must be closed to others. A pipe may be read as well: it has no meaningful
    /// mode, and is how a shell hands a secret over.
    Private,
    /// A regular file of ours, closed to others, and not behind a symbolic link.
    PrivateInPlace,
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// What the system said.
    System(io::Error),
    /// Others can read or write it; its permission bits.
    TooPermissive(u32),
    /// It belongs to somebody else, with this user id.
    WrongOwner(u32),
    /// It is a symbolic link.
    Link,
    /// It is neither a regular file nor, where that may be, a pipe.
    NoFile,
    /// It has more bytes than it may.
    TooLarge,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Reads a file of at most so many bytes.
pub(crate) fn read(file: &Path, bytes_max: u64, demand: FileRequirement) -> Result<Vec<u8>, ReadError> {
    let mut options = OpenOptions::new();
    options.read(true);
    if demand == FileRequirement::PrivateInPlace {
        // Without waiting for a writer, should it be a pipe.
        options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    }
    let handle = match options.open(file) {
        Ok(handle) => handle,
        Err(_) if demand == FileRequirement::PrivateInPlace && is_link(file) => return Err(ReadError::Link),
        Err(error) => return Err(error.into()),
    };
    // Of the open file, so that nobody can exchange it between the check and the read.
    let metadata = handle.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let exposed = if is_credential(file) { OTHERS & !ACCESS_LIST } else { OTHERS };
    if demand != FileRequirement::Anything && metadata.is_file() && mode & exposed != 0 {
        return Err(ReadError::TooPermissive(mode));
    }
    if demand == FileRequirement::PrivateInPlace {
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

/// Whether it is a secret that systemd keeps for this process (`LoadCredential=`): it belongs to root, and an
/// access control list lets this process, and nobody else, read it.
fn is_credential(file: &Path) -> bool {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    directory.is_some_and(|directory| directory.is_absolute() && file.parent() == Some(&*directory))
}

/// Makes a file that was not there before. Whatever happens, it is there with all of its bytes or
/// not at all, for good once this returns.
///
/// # Errors
/// `AlreadyExists` if the name is taken, if only by a symbolic link; or what else the system says.
pub(crate) fn create_new(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if file.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let temporary = write_temporary(file, bytes, mode)?;
    let linked = match fs::hard_link(&temporary, file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // Not every file system has links; what is lost then is all-or-nothing.
            write_new(file, bytes, mode)
        }
        done => done,
    };
    let _ = fs::remove_file(&temporary);
    linked.and_then(|()| sync_directory_of(file))
}

/// Puts a file in the place of whatever has its name. Whatever happens, that name leads to the old
/// file or to the new one, whole; to the new one for good once this returns.
pub(crate) fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(file, bytes, mode)?;
    if let Err(error) = fs::rename(&temporary, file) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory_of(file)
}

/// Removes what [`create_new`] and [`replace`] of this file left behind when their process was
/// killed. Nobody else may be about to use them.
pub(crate) fn remove_temporaries(file: &Path) {
    // A file that can't be removed is only in the way of the next one, which then says so.
    let _ = fs::remove_file(temporary_of(file));
}

/// The user that this process acts as.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Permission bits with which others could read or write, if there are any.
pub(crate) fn open_to_others(metadata: &fs::Metadata) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & OTHERS != 0).then_some(mode)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some file systems can't, and say so like this.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn is_link(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

fn write_temporary(file: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let temporary = temporary_of(file);
    // Left behind by a process that was killed.
    let _ = fs::remove_file(&temporary);
    write_new(&temporary, bytes, mode)?;
    Ok(temporary)
}

/// Beside the file, so on its file system.
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
        // The process may have been started with a mask that leaves the owner less.
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
    // The bits are the system's own; only the sign of their type differs.
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
    fn a_new_file_is_private_and_never_takes_the_place_of_another() {
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
    fn what_a_killed_process_left_behind_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory");
        for left_behind in ["", "half of it"] {
            fs::write(temporary_of(&file), left_behind).unwrap();
            replace(&file, b"whole", PRIVATE).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"whole");
        }
        fs::write(temporary_of(&file), "half").unwrap();
        remove_temporaries(&file);
        assert_eq!(names(directory.path()), ["memory"]);
    }

    #[test]
    fn a_file_in_place_is_ours_closed_and_no_link() {
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
