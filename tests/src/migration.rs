//! Migrations between two processes, as tests and benchmarks drive them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use api_client::Client;
use serde_json::{Value, json};

use crate::HarnessError;
use crate::process::{VmProcess, guest_arguments_on, wait_until};
use crate::scenario::Client as ServiceClient;
use crate::service::Line;

/// How long a migration may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts a process that boots the serial test guest with `jobs` and tells what happens in a file.
///
/// # Errors
/// As [`VmProcess::start`], or when the guest's files are missing.
pub fn start_guest(
    folder: &Path,
    name: &str,
    memory: &str,
    jobs: &str,
) -> Result<VmProcess, HarnessError> {
    start_guest_on("software", folder, name, memory, jobs)
}

/// The same on a backend of this name.
///
/// # Errors
/// As [`start_guest`].
pub fn start_guest_on(
    hypervisor: &str,
    folder: &Path,
    name: &str,
    memory: &str,
    jobs: &str,
) -> Result<VmProcess, HarnessError> {
    let mut arguments = guest_arguments_on(hypervisor, memory, jobs)?;
    let file = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    arguments.extend([
        "--serial".to_owned(),
        format!("socket={}", file("serial")),
        "--event-monitor".to_owned(),
        format!("path={}", file("events")),
    ]);
    VmProcess::start(folder, name, &arguments)
}

/// Starts a client of the line service of a guest that boots, and waits until it was served a few
/// times.
///
/// # Errors
/// When the guest does not serve it within `limit`.
pub fn serve_client(vm: &VmProcess, limit: Duration) -> Result<ServiceClient, HarnessError> {
    let mut line = Line::connect_within(vm.serial(), limit)?;
    line.receive_until("MARK begin service", limit)?;
    let client = ServiceClient::start(line, vm.serial().to_owned())?;
    client.more(5, limit)?;
    Ok(client)
}

/// A loopback address on which nobody listens.
///
/// # Errors
/// When the host has none.
pub fn free_url() -> Result<Value, HarnessError> {
    let listener = TcpListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(HarnessError::host("find a free port"))?;
    Ok(json!(format!("tcp:{address}")))
}

/// A process that waits for a VM; the call that makes it wait blocks, on a thread of its own.
pub struct Receiver {
    url: Value,
    thread: JoinHandle<Result<(), HarnessError>>,
}

impl Receiver {
    /// Has `process` wait at `url`.
    pub fn start(process: &VmProcess, url: Value) -> Self {
        Self::start_with(process, url, &json!({}))
    }

    /// The same with `options` in the body of the call.
    pub fn start_with(process: &VmProcess, url: Value, options: &Value) -> Self {
        let mut body = json!({"receiver_url": url});
        if let (Some(all), Some(given)) = (body.as_object_mut(), options.as_object()) {
            all.extend(given.clone());
        }
        let api = process.api().to_owned();
        let thread = std::thread::spawn(move || receive(&api, &body));
        Self { url, thread }
    }

    /// Where it waits.
    pub fn url(&self) -> &Value {
        &self.url
    }

    /// What the call came to.
    ///
    /// # Errors
    /// When no VM came.
    pub fn finish(self) -> Result<(), HarnessError> {
        let result = self.thread.join();
        result.map_err(|_| HarnessError::Broken("the receiving call panicked".to_owned()))?
    }
}

fn receive(api: &Path, body: &Value) -> Result<(), HarnessError> {
    const CALL: &str = "vm.receive-migration";
    let failed = |source| HarnessError::Api {
        call: CALL.to_owned(),
        source,
    };
    let mut client = Client::connect(api).map_err(failed)?;
    client.set_timeout(Some(LIMIT * 2)).map_err(failed)?;
    client.put_json(CALL, body).map_err(failed)?;
    Ok(())
}

/// Begins a migration to `url`, as soon as somebody listens there; `options` go into the body.
///
/// # Errors
/// When nobody listens, or the VM cannot migrate.
pub fn send(source: &VmProcess, url: &Value, options: &Value) -> Result<(), HarnessError> {
    let mut body = json!({"destination_url": url});
    if let (Some(all), Some(given)) = (body.as_object_mut(), options.as_object()) {
        all.extend(given.clone());
    }
    let mut last = None;
    let begun = wait_until("a receiver to listen", LIMIT, || {
        match source.put("vm.send-migration", &body) {
            Ok(()) => return Ok(true),
            Err(error) if error.status() == Some(400) => last = Some(error),
            Err(error) => return Err(error),
        }
        Ok(false)
    });
    begun.map_err(|error| last.unwrap_or(error))
}

/// Waits until the migration of `process` is in one of the states; returns what `vm.info` says.
///
/// # Errors
/// When it does not get there.
pub fn wait_for(process: &VmProcess, states: &[&str]) -> Result<Value, HarnessError> {
    let mut info = Value::Null;
    let waited = wait_until(&format!("migration to be {states:?}"), LIMIT, || {
        info = process.get("vm.info")?;
        let state = info["migration"]["state"].as_str().unwrap_or_default();
        Ok(states.contains(&state))
    });
    match waited {
        Ok(()) => Ok(info),
        Err(error) => Err(HarnessError::Broken(format!("{error}: {info}"))),
    }
}

/// Waits until the process has ended by itself, with success.
///
/// # Errors
/// When it does not, or fails.
pub fn wait_for_end(process: &mut VmProcess) -> Result<(), HarnessError> {
    let mut code = None;
    wait_until("the source to end", LIMIT, || {
        code = process.ended().map(|status| status.code());
        Ok(code.is_some())
    })?;
    match code.flatten() {
        Some(0) => Ok(()),
        code => Err(HarnessError::Broken(format!(
            "the source ended with {code:?}"
        ))),
    }
}

/// What a migration took, as its source has told.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// How long the guest stood still, in milliseconds.
    pub downtime_ms: f64,
    /// From the call to the end, in milliseconds.
    pub total_ms: f64,
    /// Bytes of memory on the wire.
    pub bytes: f64,
    /// Rounds.
    pub rounds: usize,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            downtime_ms,
            total_ms,
            bytes,
            rounds,
        } = self;
        let mib = bytes / 1_048_576.0;
        write!(
            out,
            "downtime {downtime_ms:.1} ms, total {total_ms:.0} ms, {mib:.1} MiB in {rounds} rounds"
        )
    }
}

/// What to compare such figures with.
pub const COMPARISON: &str = "Cloud Hypervisor v54 outside of such a bench (loopback TCP, 256 MiB \
    of memory, 64 MiB of it rewritten all the time): downtime 36, 39 and 40 ms without the 40 ms \
    that its small writes wait for acknowledgements, 78 to 86 ms as it is";

/// The events that a process started by [`start_guest`] has told of so far.
///
/// # Errors
/// When they cannot be read.
pub fn events(source: &VmProcess) -> Result<Vec<Value>, HarnessError> {
    let path: PathBuf = source.serial().with_extension("events");
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(HarnessError::host(format!("read {}", path.display())))?;
    let documents = text.split("\n\n").filter(|text| !text.trim().is_empty());
    let malformed = |error| HarnessError::Broken(format!("an event is malformed: {error}"));
    documents
        .map(|text| serde_json::from_str(text).map_err(malformed))
        .collect()
}

/// The figures of a migration that a process has finished.
///
/// # Errors
/// When it has not.
pub fn figures(source: &VmProcess) -> Result<Figures, HarnessError> {
    let events = events(source)?;
    let named = |name: &'static str| {
        let all = events.iter();
        all.filter(move |event| event["event"] == name)
    };
    let finished = named("migration-finished").next_back();
    let finished =
        finished.ok_or_else(|| HarnessError::Broken("no migration has finished".to_owned()))?;
    let number = |name: &str| -> f64 {
        let text = finished["properties"][name].as_str();
        text.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    };
    Ok(Figures {
        downtime_ms: number("downtime_us") / 1000.0,
        total_ms: number("total_ms"),
        bytes: number("bytes"),
        rounds: named("migration-memory-iteration").count() + 1,
    })
}
