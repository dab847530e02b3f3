//! A guest with a shell on its serial port and one disk that has no file system: what is read and
//! written there is what a test says.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::service::Line;
use crate::{HarnessError, guest_file, skip};

/// How long the guest may take to boot, on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nobody may listen at the serial port.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments that boot the guest on the backend of this name; `disk` is what `--disk` takes.
/// `None`, and a line that says so, where the guest was not made.
pub fn arguments(hypervisor: &str, disk: &str, serial: &Path) -> Option<Vec<String>> {
    let (kernel, initramfs) = match (guest_file("vmlinuz"), guest_file("disk.cpio")) {
        (Ok(kernel), Ok(initramfs)) => (kernel, initramfs),
        (Err(error), _) | (_, Err(error)) => {
            skip(&error.to_string());
            return None;
        }
    };
    let arguments = [
        "--kernel",
        &kernel.display().to_string(),
        "--initramfs",
        &initramfs.display().to_string(),
        "--cmdline",
        "console=ttyS0 quiet panic=-1 root=none job=shell",
        "--memory",
        "size=128M",
        "--platform",
        &format!("hypervisor={hypervisor}"),
        "--serial",
        &format!("socket={}", serial.display()),
        "--disk",
        disk,
    ];
    Some(arguments.map(str::to_owned).to_vec())
}

/// The guest's shell.
pub struct Shell {
    line: Line,
}

impl Shell {
    /// The shell of a guest that boots, with its serial port at `serial`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boots(serial: &Path) -> Result<Self, HarnessError> {
        let mut shell = Self::connect(serial)?;
        shell.line.receive_until("MARK begin shell", BOOT_TIMEOUT)?;
        Ok(shell)
    }

    /// The shell of a guest that runs.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(serial: &Path) -> Result<Self, HarnessError> {
        let line = Line::connect_within(serial, CONNECT_TIMEOUT)?;
        Ok(Self { line })
    }

    /// Begins a command, and does not wait for its end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn begin(&mut self, command: &str) -> Result<(), HarnessError> {
        let sent = self.line.send(command);
        sent.map_err(HarnessError::host(format!("send {command:?}")))
    }

    /// Runs a command: its status, and the last line that it wrote.
    ///
    /// # Errors
    /// When the connection breaks, or it takes too long.
    pub fn run(&mut self, command: &str) -> Result<(String, String), HarnessError> {
        // The terminal shows the command too, where the mark is not in one piece.
        self.begin(&format!("{command}; s=$?; echo; echo DO''NE $s"))?;
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            let line = match self.line.receive() {
                Ok(line) => line,
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE =>
                {
                    continue;
                }
                Err(error) => {
                    let what = format!("{command}: {error}; the last line was {last:?}");
                    return Err(HarnessError::Broken(what));
                }
            };
            match line.strip_prefix("DONE ") {
                Some(status) => return Ok((status.to_owned(), last)),
                None if line.is_empty() => {}
                None => last = line,
            }
        }
    }

    /// Runs a command that succeeds: the last line that it wrote.
    ///
    /// # Errors
    /// As [`Shell::run`], and when it fails.
    pub fn succeeds(&mut self, command: &str) -> Result<String, HarnessError> {
        let (status, last) = self.run(command)?;
        if status == "0" {
            return Ok(last);
        }
        let what = format!("{command} ended with {status}: {last}");
        Err(HarnessError::Broken(what))
    }
}
