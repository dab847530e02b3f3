//! Runs of `cloud-hypervisor` that come to their own end, and what tests keep on the host
//! meanwhile: a scratch folder, a load on the processor.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{guest_arguments, wait_until};
use crate::{HarnessError, program};

/// A folder for the files of one test. It goes with its owner, but stays after a panic.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one; `name` is a part of its name.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn new(name: &str) -> Result<Self, HarnessError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("chft-{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(&path)
            .map_err(HarnessError::host(format!("make {}", path.display())))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sockets and logs are in {}", self.0.display());
            if let Some(out) = std::env::var_os("KVM_BENCH_OUT") {
                keep_logs(&self.0, Path::new(&out));
            }
        } else {
            // What is left in the folder for temporary files harms nobody.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Copies what the processes of a test have told to where it outlives the bench's machine.
fn keep_logs(folder: &Path, out: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let kind = path.extension().and_then(|kind| kind.to_str());
        let (Some("log" | "events" | "stderr"), Some(name)) = (kind, path.file_name()) else {
            continue;
        };
        let kept = out.join(format!("failed-{}", name.display()));
        if let Err(error) = fs::copy(&path, &kept) {
            eprintln!(
                "cannot copy {} to {}: {error}",
                path.display(),
                kept.display()
            );
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub output: String,
    /// What it wrote to its standard error.
    pub errors: String,
}

impl Finished {
    /// The standard output as JSON.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json(&self) -> Result<Value, HarnessError> {
        serde_json::from_str(&self.output)
            .map_err(|error| HarnessError::Broken(format!("{error} in the output of {self:?}")))
    }
}

/// Runs `cloud-hypervisor` to its end, in the folder of `scratch`.
///
/// # Errors
/// When it cannot be run, or runs longer than `limit`; it is killed then.
pub fn run(
    scratch: &Scratch,
    arguments: &[String],
    limit: Duration,
) -> Result<Finished, HarnessError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let (output, errors) = (
        scratch.file(&format!("run-{count}.out")),
        scratch.file(&format!("run-{count}.err")),
    );
    let create = |path: &Path| {
        File::create(path).map_err(HarnessError::host(format!("create {}", path.display())))
    };
    let path = program("cloud-hypervisor")?;
    let mut child = Command::new(&path)
        .args(arguments)
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stdout(create(&output)?)
        .stderr(create(&errors)?)
        .spawn()
        .map_err(HarnessError::host(format!("start {}", path.display())))?;
    let code = match end_of(&mut child, limit) {
        Ok(status) => status.code(),
        Err(error) => {
            // It may have ended between the two.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    let read = |path: &Path| {
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(HarnessError::host(format!("read {}", path.display())))
    };
    Ok(Finished {
        code,
        output: read(&output)?,
        errors: read(&errors)?,
    })
}

fn end_of(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus, HarnessError> {
    let mut status = None;
    wait_until("the end of cloud-hypervisor", limit, || {
        status = child
            .try_wait()
            .map_err(HarnessError::host("wait for a process"))?;
        Ok(status.is_some())
    })?;
    status.ok_or_else(|| HarnessError::Broken("a process without a status".to_owned()))
}

/// Arguments that boot the serial test guest with its console in `serial`.
///
/// # Errors
/// When the guest's files are missing.
pub fn guest_to_file(memory: &str, jobs: &str, serial: &Path) -> Result<Vec<String>, HarnessError> {
    let mut arguments = guest_arguments(memory, jobs)?;
    arguments.extend(["--serial".to_owned(), format!("file={}", serial.display())]);
    Ok(arguments)
}

/// Keeps one core busy until it is dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Load {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start() -> Result<Self, HarnessError> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let body = move || {
            let mut value = 1_u64;
            while !seen.load(Ordering::Relaxed) {
                for _ in 0..10_000 {
                    value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005));
                }
            }
            value
        };
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(body)
            .map_err(HarnessError::host("start a load"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The loop cannot panic.
            let _ = thread.join();
        }
    }
}

/// Load average of the host over the last minute. In the KVM bench's machine that is the machine's
/// host, whose load is in the file that `CHFT_LOADAVG` names.
///
/// # Errors
/// When the host does not tell.
pub fn load_average() -> Result<f64, HarnessError> {
    let path = std::env::var_os("CHFT_LOADAVG").unwrap_or_else(|| "/proc/loadavg".into());
    let text = fs::read_to_string(path).map_err(HarnessError::host("read the load"))?;
    text.split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| HarnessError::Broken(format!("/proc/loadavg has {text:?}")))
}

/// Whether time limits mean something now; tells of the skip if not.
///
/// # Errors
/// When the host does not tell its load.
pub fn host_is_quiet(what: &str, since: Instant) -> Result<bool, HarnessError> {
    let load = load_average()?;
    if load > 3.0 {
        let taken_s = since.elapsed().as_secs_f64();
        crate::skip(&format!(
            "time limit of {what} ({taken_s:.1} s taken): the load average is {load}"
        ));
        return Ok(false);
    }
    Ok(true)
}
