//! Executable files for tests. Another process, install(1), writes them: a child that another test starts
//! meanwhile would inherit a file open for writing, and the kernel refuses to run such a file.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script that every user may run.
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

/// Copies a program so that every user may run it.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let installed = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status();
    assert!(installed.expect("install(1) is there").success(), "{} cannot be written", to.display());
}
