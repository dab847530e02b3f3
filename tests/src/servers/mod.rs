//! Guests with a disk, a network card and a server in them, and clients that hold the servers to
//! their word.
//!
//! Each host of a pair is a *side*: a tap on the bridge of [`crate::network`] and a disk image.
//! Processes take the sides in turns, so a backup that is started after a failover stands where
//! the dead primary stood, and finds its image.

pub mod disk;
pub mod http;
pub mod postgres;
pub mod redis;
pub mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::network::{GUEST_MAC, GUEST_NETWORK, SIDES, tap};
use crate::process::{VmProcess, wait_until};
use crate::scenario::Pair;
use crate::{HarnessError, guest_file};

/// How long a guest may take to boot and to start its servers.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long servers may take to end, and the guest to power off.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(60);

/// A guest that is wanted.
#[derive(Debug, Clone)]
pub struct ServerGuest {
    /// Its servers, with commas between them: `redis`, `postgres`, `nginx`.
    pub servers: String,
    /// The job after the servers are up.
    pub job: String,
    /// Size of its memory, as `--memory size=` takes it.
    pub memory: String,
    /// Whether both sides use one image, which is then no part of the machine.
    pub shared_disk: bool,
    /// Whether the serial port is a socket; else it is written to a file.
    pub serial_socket: bool,
}

impl Default for ServerGuest {
    fn default() -> Self {
        Self {
            servers: "redis".to_owned(),
            job: "idle".to_owned(),
            memory: "512M".to_owned(),
            shared_disk: false,
            serial_socket: false,
        }
    }
}

impl ServerGuest {
    /// One with the servers named.
    pub fn with(servers: &str) -> Self {
        Self {
            servers: servers.to_owned(),
            ..Self::default()
        }
    }

    /// Boots it on side 0 and waits until its servers answer. Its disk is a copy of the image
    /// that `scripts/guest-image servers` makes.
    ///
    /// # Errors
    /// When the guest's files are missing, or it does not come up.
    pub fn boot(&self, folder: &Path) -> Result<Pair, HarnessError> {
        let place = self.place(folder);
        disk::copy(&guest_file("servers.raw")?, &place.image(0))?;
        let name = "vmm-0";
        let primary = VmProcess::start(folder, name, &self.arguments(&place)?)?;
        if !self.serial_socket {
            place.wait_for_mark(name, &format!("MARK begin {}", self.job))?;
        }
        let overrides = move |backup: &VmProcess| Ok(place.overrides(backup));
        Ok(Pair::of(folder.to_owned(), primary, Box::new(overrides)))
    }

    fn place(&self, folder: &Path) -> Place {
        Place {
            folder: folder.to_owned(),
            shared_disk: self.shared_disk,
            serial_socket: self.serial_socket,
        }
    }

    fn arguments(&self, place: &Place) -> Result<Vec<String>, HarnessError> {
        let path = |name| guest_file(name).map(|path| path.display().to_string());
        let servers = match self.servers.as_str() {
            "" => String::new(),
            names => format!("servers={names} "),
        };
        let command_line = format!(
            "console=ttyS0 quiet panic=-1 {servers}net={GUEST_NETWORK} job={}",
            self.job
        );
        let kind = if self.serial_socket { "socket" } else { "file" };
        let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let sharing = if self.shared_disk { ",ft=shared" } else { "" };
        let words = [
            ("--kernel", path("vmlinuz")?),
            ("--initramfs", path("disk.cpio")?),
            ("--cmdline", command_line),
            ("--memory", format!("size={}", self.memory)),
            ("--console", "off".to_owned()),
            ("--platform", "hypervisor=software".to_owned()),
            ("--serial", format!("{kind}={}", place.serial("vmm-0"))),
            (
                "--disk",
                format!("path={}{sharing}", place.image(0).display()),
            ),
            ("--net", format!("tap={},mac={mac}", tap(0))),
        ];
        let words = words.into_iter();
        Ok(words
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect())
    }
}

/// Where the files of a guest are, and who has which.
#[derive(Clone)]
struct Place {
    folder: PathBuf,
    shared_disk: bool,
    serial_socket: bool,
}

impl Place {
    fn image(&self, side: usize) -> PathBuf {
        let side = if self.shared_disk { 0 } else { side };
        image_of_side(&self.folder, side)
    }

    fn serial(&self, name: &str) -> String {
        let path = self.folder.join(format!("{name}.serial"));
        path.display().to_string()
    }

    fn overrides(&self, backup: &VmProcess) -> Value {
        let side = side_of(backup);
        let serial = match self.serial_socket {
            true => json!({"mode": "Socket", "socket": self.serial(backup.name())}),
            false => json!({"mode": "File", "file": self.serial(backup.name())}),
        };
        json!({
            "serial": serial,
            "disks": [{"id": "_disk0", "path": self.image(side)}],
            "net": [{"id": "_net1", "tap": tap(side)}],
        })
    }

    fn wait_for_mark(&self, name: &str, mark: &str) -> Result<(), HarnessError> {
        let serial = self.serial(name);
        let mut text = String::new();
        let waited = wait_until(mark, BOOT_TIMEOUT, || {
            std::thread::sleep(Duration::from_millis(45));
            let bytes = std::fs::read(&serial).unwrap_or_default();
            text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some(line) = text.lines().find(|line| line.starts_with("MARK fail")) {
                return Err(HarnessError::Broken(format!("the guest says {line:?}")));
            }
            Ok(text.lines().any(|line| line.starts_with(mark)))
        });
        waited.map_err(|error| {
            let last = text.lines().last().unwrap_or_default();
            HarnessError::Broken(format!("{error}; the last line on {serial} is {last:?}"))
        })
    }
}

/// The service of that name.
pub fn service(name: &str) -> Option<Box<dyn traffic::Service>> {
    match name {
        "redis" => Some(Box::new(redis::Redis)),
        "postgres" => Some(Box::new(postgres::Postgres)),
        "nginx" => Some(Box::new(http::Nginx)),
        _ => None,
    }
}

/// The side on which a process of a pair is.
pub fn side_of(process: &VmProcess) -> usize {
    side_of_name(process.name())
}

/// The side of a process of that name: its number, the last part of it, decides.
pub fn side_of_name(name: &str) -> usize {
    let number = name.rsplit('-').next();
    let number: usize = number.and_then(|text| text.parse().ok()).unwrap_or(0);
    number % SIDES
}

/// The image of one side.
pub fn image_of_side(folder: &Path, side: usize) -> PathBuf {
    folder.join(format!("{}.raw", tap(side)))
}

/// Presses the power button and waits until the guest has ended.
///
/// # Errors
/// When it does not end in time, or in another way.
pub fn power_off(process: &mut VmProcess) -> Result<(), HarnessError> {
    process.put("vm.power-button", &Value::Null)?;
    wait_for_end(process, "the power-off", POWER_OFF_TIMEOUT)
}

/// Waits until a process has no running VM any more. One that was started for its VM ends with
/// it, with exit code 0; one that waited for calls stays and has a VM that is merely created.
///
/// # Errors
/// When that does not happen within `timeout`, or the process ends with another code.
pub fn wait_for_end(
    process: &mut VmProcess,
    what: &str,
    timeout: Duration,
) -> Result<(), HarnessError> {
    let mut code = None;
    let waited = wait_until(what, timeout, || {
        if let Some(status) = process.ended() {
            code = Some(status.code());
            return Ok(true);
        }
        // The process may end between the two.
        let info = process.get("vm.info");
        Ok(info.is_ok_and(|info| info["state"] == "Created"))
    });
    waited?;
    match code {
        None | Some(Some(0)) => Ok(()),
        Some(code) => Err(HarnessError::Broken(format!(
            "{what}: {} ended with {code:?}; see {}",
            process.name(),
            process.log().display()
        ))),
    }
}
