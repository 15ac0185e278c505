//! Files that a test runs. Another process writes them: a child that another test starts just then would
//! inherit a file that is open for writing, and such a file cannot be run.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A script that everybody may run.
pub(crate) fn write_script(file: &Path, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(file)
        .stdin(Stdio::piped())
        .spawn()
        .expect("install(1) is there");
    let mut stdin = install.stdin.take().expect("stdin was asked to be a pipe");
    stdin.write_all(text.as_bytes()).expect("install(1) reads the script");
    drop(stdin);
    assert!(install.wait().expect("it is our child").success(), "{} cannot be written", file.display());
}

/// A copy of a program that everybody may run.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let installed = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status();
    assert!(installed.expect("install(1) is there").success(), "{} cannot be written", to.display());
}
