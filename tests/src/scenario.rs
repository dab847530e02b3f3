//! A protected guest with a client, whose primary is killed again and again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::HarnessError;
use crate::process::{VmProcess, wait_until};
use crate::service::{Ledger, Line};

/// How long a guest may take to boot.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a failover may take before the test gives up.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The client: requests without pause, following the guest from host to host.
pub struct Client {
    ledger: Arc<Mutex<Ledger>>,
    socket: Arc<Mutex<PathBuf>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<(), HarnessError>>>,
}

impl Client {
    /// Starts requests over `line`; later connections go to where [`Client::follow`] says.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(mut line: Line, socket: PathBuf) -> Result<Self, HarnessError> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let socket = Arc::new(Mutex::new(socket));
        let stop = Arc::new(AtomicBool::new(false));
        let (own_ledger, own_socket, own_stop) = (ledger.clone(), socket.clone(), stop.clone());
        let body = move || {
            let lock = || own_ledger.lock().unwrap_or_else(PoisonError::into_inner);
            while !own_stop.load(Ordering::Relaxed) {
                let mut now = lock().clone();
                let begun = Instant::now();
                if now.request(&mut line)? {
                    *lock() = now;
                    continue;
                }
                line = reconnect(&own_socket, &own_stop, &mut now)?;
                now.longest_gap_us = now.longest_gap_us.max(begun.elapsed().as_micros() as u64);
                *lock() = now;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("client".to_owned())
            .spawn(body)
            .map_err(HarnessError::host("start a client"))?;
        Ok(Self {
            ledger,
            socket,
            stop,
            thread: Some(thread),
        })
    }

    /// What the client has seen so far.
    pub fn ledger(&self) -> Ledger {
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Names the socket for the next connection.
    pub fn follow(&self, socket: PathBuf) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Names the socket of the pair's backup for the next connection.
    ///
    /// # Errors
    /// When there is no backup.
    pub fn follow_backup(&self, pair: &Pair) -> Result<(), HarnessError> {
        self.follow(pair.other()?.serial().to_owned());
        Ok(())
    }

    /// Waits until the client has seen so many more replies.
    ///
    /// # Errors
    /// When it has not within `limit`, or has given up.
    pub fn more(&self, count: u64, limit: Duration) -> Result<(), HarnessError> {
        let target = self.ledger().acknowledged + count;
        wait_until("further replies", limit, || {
            if self.has_ended() {
                return Err(HarnessError::Broken("the client gave up".to_owned()));
            }
            Ok(self.ledger().acknowledged >= target)
        })
    }

    /// Whether the client has given up.
    pub fn has_ended(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// Ends the requests.
    ///
    /// # Errors
    /// What the client found wrong.
    pub fn finish(&mut self) -> Result<Ledger, HarnessError> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| HarnessError::Broken("the client panicked".to_owned()))??;
        }
        Ok(self.ledger())
    }
}

/// Connects to wherever the guest is now and greets the service.
fn reconnect(
    socket: &Mutex<PathBuf>,
    stop: &AtomicBool,
    ledger: &mut Ledger,
) -> Result<Line, HarnessError> {
    let deadline = Instant::now() + FAILOVER_TIMEOUT;
    loop {
        let path = socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Ok(mut line) = Line::connect(&path) {
            match ledger.resume(&mut line) {
                Ok(()) => return Ok(line),
                Err(error @ HarnessError::Broken(_)) => return Err(error),
                Err(_) => {}
            }
        }
        if Instant::now() > deadline || stop.load(Ordering::Relaxed) {
            let seconds = FAILOVER_TIMEOUT.as_secs();
            return Err(HarnessError::Timeout {
                what: "a new connection".to_owned(),
                seconds,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How guests are protected by tests that leave it open: as `CHFT_FT_MODE` says.
pub fn mode() -> String {
    std::env::var("CHFT_FT_MODE").unwrap_or_else(|_| "auto".to_owned())
}

/// What a backup has of its own: `config_overrides` of `vm.ft-receive`.
pub type Overrides = Box<dyn Fn(&VmProcess) -> Result<Value, HarnessError> + Send>;

/// A guest, its backup, and the folder with their sockets.
pub struct Pair {
    folder: PathBuf,
    /// Runs the guest.
    pub primary: VmProcess,
    /// Follows it.
    pub backup: Option<VmProcess>,
    started: u32,
    overrides: Overrides,
}

/// How the guest is protected.
#[derive(Debug, Clone)]
pub struct Protection {
    /// Body of `vm.ft-start` but for the address.
    pub start: Value,
    /// `tcp` or `unix`.
    pub transport: &'static str,
}

impl Protection {
    /// One that bears with a busy host: a peer may be silent for so long.
    pub fn patient(timeout_ms: u64) -> Self {
        Self {
            start: json!({"timeout_ms": timeout_ms}),
            ..Self::default()
        }
    }
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            start: json!({}),
            transport: "tcp",
        }
    }
}

impl Pair {
    /// Boots the guest with `jobs` and waits until it says `mark`; returns the line to it and how
    /// long it took, in seconds.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(
        folder: PathBuf,
        memory: &str,
        jobs: &str,
        mark: &str,
    ) -> Result<(Self, Line, f64), HarnessError> {
        let begun = Instant::now();
        let primary = VmProcess::start_guest(&folder, "vmm-0", memory, jobs)?;
        let mut line = Line::connect_within(primary.serial(), BOOT_TIMEOUT)?;
        line.receive_until("MARK ready", BOOT_TIMEOUT)?;
        let boot_s = begun.elapsed().as_secs_f64();
        if mark != "MARK ready" {
            line.receive_until(mark, BOOT_TIMEOUT)?;
        }
        let serial = |backup: &VmProcess| {
            Ok(json!({"serial": {"mode": "Socket", "socket": backup.serial()}}))
        };
        let pair = Self::of(folder, primary, Box::new(serial));
        Ok((pair, line, boot_s))
    }

    /// The guest of `primary`, with no backup yet; `overrides` tells what each backup will have.
    pub fn of(folder: PathBuf, primary: VmProcess, overrides: Overrides) -> Self {
        Self {
            folder,
            primary,
            backup: None,
            started: 1,
            overrides,
        }
    }

    /// The backup.
    ///
    /// # Errors
    /// When there is none.
    pub fn other(&self) -> Result<&VmProcess, HarnessError> {
        let backup = self.backup.as_ref();
        backup.ok_or_else(|| HarnessError::Broken("there is no backup".to_owned()))
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a backup and protects the guest with it.
    ///
    /// # Errors
    /// When it cannot be protected.
    pub fn protect(&mut self, protection: &Protection) -> Result<(), HarnessError> {
        let url = self.start_backup(protection.transport)?;
        self.primary
            .put("vm.ft-start", &self.start_body(protection, &url))
    }

    /// Starts a backup that waits for its primary; returns its address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start_backup(&mut self, transport: &str) -> Result<Value, HarnessError> {
        // Sides are told apart by the numbers of processes: see `servers`. After a swap, the next
        // number may be one of the primary's own side.
        let side = |name: &str| crate::servers::side_of_name(name);
        let mut name = format!("vmm-{}", self.started);
        if side(&name) == side(self.primary.name()) {
            self.started += 1;
            name = format!("vmm-{}", self.started);
        }
        self.started += 1;
        let backup = VmProcess::start_empty(&self.folder, &name)?;
        let url = match transport {
            "unix" => format!("unix:{}", self.folder.join(format!("{name}.ft")).display()),
            _ => "tcp:127.0.0.1:0".to_owned(),
        };
        let overrides = (self.overrides)(&backup)?;
        let receive = json!({"receiver_url": url, "config_overrides": overrides});
        backup.put("vm.ft-receive", &receive)?;
        let status = backup.ft_status()?;
        self.backup = Some(backup);
        Ok(status["receiver_url"].clone())
    }

    /// The body of `vm.ft-start` for a backup at `url`.
    pub fn start_body(&self, protection: &Protection, url: &Value) -> Value {
        let mut start = json!({
            "destination_url": url,
            "mode": mode(),
            "fence": format!("file:{}", self.folder.join("fence").display()),
        });
        if let (Some(all), Some(given)) = (start.as_object_mut(), protection.start.as_object()) {
            all.extend(given.clone());
        }
        start
    }

    /// Kills the primary; the backup takes its place here too.
    ///
    /// # Errors
    /// When the backup does not go live.
    pub fn kill_primary(&mut self) -> Result<(), HarnessError> {
        self.primary.kill()?;
        self.promote()
    }

    /// Waits until the backup is live, and puts it in the primary's place.
    ///
    /// # Errors
    /// When it does not go live.
    pub fn promote(&mut self) -> Result<(), HarnessError> {
        let backup = self.backup.take();
        let backup = backup.ok_or_else(|| HarnessError::Broken("there is no backup".to_owned()))?;
        wait_until("the promotion", FAILOVER_TIMEOUT, || {
            Ok(backup.ft_status()?["live"] == Value::Bool(true))
        })?;
        self.primary = backup;
        Ok(())
    }

    /// Swaps the roles as planned, and waits until the guest is protected the other way round.
    ///
    /// # Errors
    /// When the roles are not swapped.
    pub fn swap(&mut self) -> Result<(), HarnessError> {
        let call = json!({"planned": true});
        self.primary.put("vm.ft-failover", &call)?;
        let old = self.backup.take();
        let new = old.ok_or_else(|| HarnessError::Broken("there is no backup".to_owned()))?;
        wait_until("the swap of roles", FAILOVER_TIMEOUT, || {
            let status = new.ft_status()?;
            Ok(status["live"] == Value::Bool(true) && status["role"] == "primary")
        })?;
        self.backup = Some(std::mem::replace(&mut self.primary, new));
        Ok(())
    }
}
