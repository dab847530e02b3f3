//! One `cloud-hypervisor` process and its API socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api_client::Client;
use serde_json::Value;

use crate::{HarnessError, guest_file, program};

/// How long a process may take to answer its first ping.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long any call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);

/// One `cloud-hypervisor` process. It is killed when this is dropped.
pub struct VmProcess {
    child: Child,
    name: String,
    api: PathBuf,
    serial: PathBuf,
    log: PathBuf,
}

impl VmProcess {
    /// Starts one in `folder` under `name`, with further arguments.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub fn start(folder: &Path, name: &str, arguments: &[String]) -> Result<Self, HarnessError> {
        let api = folder.join(format!("{name}.api"));
        let serial = folder.join(format!("{name}.serial"));
        let log = folder.join(format!("{name}.log"));
        let errors = std::fs::File::create(folder.join(format!("{name}.stderr")))
            .map_err(HarnessError::host("create the log of a process"))?;
        let path = program("cloud-hypervisor")?;
        let child = Command::new(&path)
            .arg("--api-socket")
            .arg(format!("path={}", api.display()))
            .arg("--log-file")
            .arg(&log)
            .arg("-v")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(HarnessError::host(format!("start {}", path.display())))?;
        let mut process = Self {
            child,
            name: name.to_owned(),
            api,
            serial,
            log,
        };
        process.wait_for_ping()?;
        Ok(process)
    }

    /// Starts one that waits for a primary.
    ///
    /// # Errors
    /// As [`VmProcess::start`].
    pub fn start_empty(folder: &Path, name: &str) -> Result<Self, HarnessError> {
        Self::start(folder, name, &[])
    }

    /// Starts one that boots the serial test guest with `jobs`, its serial port on a socket.
    ///
    /// # Errors
    /// As [`VmProcess::start`], or when the guest's files are missing.
    pub fn start_guest(
        folder: &Path,
        name: &str,
        memory: &str,
        jobs: &str,
    ) -> Result<Self, HarnessError> {
        let mut arguments = guest_arguments(memory, jobs)?;
        let serial = folder.join(format!("{name}.serial"));
        arguments.extend([
            "--serial".to_owned(),
            format!("socket={}", serial.display()),
        ]);
        Self::start(folder, name, &arguments)
    }

    fn wait_for_ping(&mut self) -> Result<(), HarnessError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(HarnessError::Broken(format!(
                    "cloud-hypervisor ended at once with {status}; see {}",
                    self.log.display()
                )));
            }
            if self.get("vmm.ping").is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = START_TIMEOUT.as_secs();
                return Err(HarnessError::Timeout {
                    what: "the first ping".to_owned(),
                    seconds,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn client(&self, call: &str) -> Result<Client, HarnessError> {
        let failed = |source| HarnessError::Api {
            call: call.to_owned(),
            source,
        };
        let client = Client::connect(&self.api).map_err(failed)?;
        client.set_timeout(Some(CALL_TIMEOUT)).map_err(failed)?;
        Ok(client)
    }

    /// A GET call.
    ///
    /// # Errors
    /// When it is refused or the connection breaks.
    pub fn get(&self, call: &str) -> Result<Value, HarnessError> {
        let failed = |source| HarnessError::Api {
            call: call.to_owned(),
            source,
        };
        self.client(call)?.get_json(call).map_err(failed)
    }

    /// A PUT call with a body, or `Value::Null` for none.
    ///
    /// # Errors
    /// As [`VmProcess::get`].
    pub fn put(&self, call: &str, body: &Value) -> Result<(), HarnessError> {
        let failed = |source| HarnessError::Api {
            call: call.to_owned(),
            source,
        };
        let mut client = self.client(call)?;
        if body.is_null() {
            client.put(call, None).map_err(failed)?;
        } else {
            client.put_json(call, body).map_err(failed)?;
        }
        Ok(())
    }

    /// The protection status.
    ///
    /// # Errors
    /// As [`VmProcess::get`].
    pub fn ft_status(&self) -> Result<Value, HarnessError> {
        self.get("vm.ft-status")
    }

    /// Waits until a member of the protection status has this value; the whole status then.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub fn wait_for(
        &self,
        member: &str,
        value: &Value,
        limit: Duration,
    ) -> Result<Value, HarnessError> {
        let mut last = Value::Null;
        let waited = wait_until(&format!("{member} {value}"), limit, || {
            last = self.ft_status()?;
            Ok(last[member] == *value)
        });
        match waited {
            Ok(()) => Ok(last),
            Err(error) => Err(HarnessError::Broken(format!("{error}: {last}"))),
        }
    }

    /// Its name in the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Path of the serial socket.
    pub fn serial(&self) -> &Path {
        &self.serial
    }

    /// Path of the API socket.
    pub fn api(&self) -> &Path {
        &self.api
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kill(&mut self) -> Result<(), HarnessError> {
        self.child
            .kill()
            .map_err(HarnessError::host("kill a process"))?;
        self.child
            .wait()
            .map_err(HarnessError::host("wait for a killed process"))?;
        Ok(())
    }

    /// Sends another signal by its name, as `kill` takes it.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn signal(&self, name: &str) -> Result<(), HarnessError> {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status()
            .map_err(HarnessError::host("run kill"))?;
        if status.success() {
            return Ok(());
        }
        Err(HarnessError::Broken(format!(
            "kill -{name} {} failed",
            self.pid()
        )))
    }

    /// Whether the process still runs; its exit status if not.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for VmProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Arguments that boot the serial test guest with `jobs` on the software processor, which every
/// host has and which alone can be replayed.
///
/// # Errors
/// When the guest's files are missing.
pub fn guest_arguments(memory: &str, jobs: &str) -> Result<Vec<String>, HarnessError> {
    guest_arguments_on("software", memory, jobs)
}

/// The same on a backend of this name.
///
/// # Errors
/// When the guest's files are missing.
pub fn guest_arguments_on(
    hypervisor: &str,
    memory: &str,
    jobs: &str,
) -> Result<Vec<String>, HarnessError> {
    let (kernel, initramfs) = (guest_file("vmlinuz")?, guest_file("serial.cpio")?);
    let text = |path: PathBuf| path.display().to_string();
    Ok([
        "--kernel",
        &text(kernel),
        "--initramfs",
        &text(initramfs),
        "--cmdline",
        &format!("console=ttyS0,115200 quiet panic=-1 {jobs}"),
        "--memory",
        &format!("size={memory}"),
        "--console",
        "off",
        "--platform",
        &format!("hypervisor={hypervisor}"),
    ]
    .map(str::to_owned)
    .to_vec())
}

/// Calls `check` until it says yes.
///
/// # Errors
/// When it does not within `timeout`, or fails.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> Result<bool, HarnessError>,
) -> Result<(), HarnessError> {
    let deadline = Instant::now() + timeout;
    while !check()? {
        if Instant::now() > deadline {
            let seconds = timeout.as_secs();
            return Err(HarnessError::Timeout {
                what: what.to_owned(),
                seconds,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
