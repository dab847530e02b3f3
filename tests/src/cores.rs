//! On which of the host's cores a side of a pair runs.
//!
//! Processors that move from core to core: the cores of a host that has other tenants differ in
//! speed for seconds at a time, and what happens to run on the faster one would seem the faster.
//! Or a core for each side, as if each had a small host of its own.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::HarnessError;

/// How long a processor stays on a core: short beside the lag that a primary allows its backup,
/// long beside the time in which a core's caches fill.
const STAY: Duration = Duration::from_millis(20);
/// The name of a virtual processor's thread.
const PROCESSOR: &str = "vcpu0";

/// Virtual processors, and the cores that they may run on.
struct Ring {
    processors: Vec<Pid>,
    cores: Vec<usize>,
    all: CpuSet,
}

impl Ring {
    fn of(pids: &[u32]) -> Result<Self, HarnessError> {
        let processors = pids.iter().map(|pid| processor_of(*pid));
        let processors = processors.collect::<Result<_, _>>()?;
        let all = sched_getaffinity(Pid::from_raw(0)).map_err(refused)?;
        Ok(Self {
            processors,
            cores: members(&all),
            all,
        })
    }

    /// Gives each processor one core; in the next step it is another one.
    fn place(&self, step: usize) -> nix::Result<()> {
        let cores = self.cores.iter().cycle().skip(step % self.cores.len());
        for (processor, core) in self.processors.iter().zip(cores) {
            let mut one = CpuSet::new();
            one.set(*core)?;
            sched_setaffinity(*processor, &one)?;
        }
        Ok(())
    }

    /// Lets the processors run where they might before.
    fn open(&self) -> nix::Result<()> {
        let mut processors = self.processors.iter();
        processors.try_for_each(|processor| sched_setaffinity(*processor, &self.all))
    }
}

/// Moves the virtual processors of some processes round the host's cores, a step every 20 ms.
#[derive(Debug)]
pub struct Carousel {
    end: Sender<()>,
    thread: JoinHandle<nix::Result<()>>,
}

impl Carousel {
    /// Starts to move the virtual processors of the processes `pids`. Of as many as there are
    /// cores, no two are on one.
    ///
    /// # Errors
    /// When a process has no virtual processor, or the host does not say which cores there are.
    pub fn start(pids: &[u32]) -> Result<Self, HarnessError> {
        let ring = Ring::of(pids)?;
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            for step in 0.. {
                ring.place(step)?;
                if ended.recv_timeout(STAY) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            ring.open()
        });
        Ok(Self { end, thread })
    }

    /// Stops: the processors may run anywhere again.
    ///
    /// # Errors
    /// When the host did not let one be moved.
    pub fn stop(self) -> Result<(), HarnessError> {
        drop(self.end);
        let moved = self.thread.join();
        let moved = moved.map_err(|_| HarnessError::Broken("a thread panicked".to_owned()))?;
        moved.map_err(refused)
    }
}

/// The cores of a set, ascending.
fn members(set: &CpuSet) -> Vec<usize> {
    let is_in = |core: &usize| set.is_set(*core).unwrap_or(false);
    (0..CpuSet::count()).filter(is_in).collect()
}

/// Does something on one core of the host, the one with this number among those that we may use; a
/// process that is started by it stays there. On a host of one core that is the only one.
///
/// # Errors
/// What `work` says, or when the host does not let us choose.
pub fn on_one<T>(
    index: usize,
    work: impl FnOnce() -> Result<T, HarnessError>,
) -> Result<T, HarnessError> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).map_err(refused)?;
    let mut one = CpuSet::new();
    for core in members(&all).iter().cycle().skip(index).take(1) {
        one.set(*core).map_err(refused)?;
    }
    sched_setaffinity(this, &one).map_err(refused)?;
    let given = work();
    sched_setaffinity(this, &all).map_err(refused)?;
    given
}

fn refused(error: nix::Error) -> HarnessError {
    HarnessError::host("move a thread from core to core")(error.into())
}

/// The thread that is the processor of the process `pid`.
fn processor_of(pid: u32) -> Result<Pid, HarnessError> {
    let folder = format!("/proc/{pid}/task");
    let failed = || HarnessError::host(format!("read {folder}"));
    for thread in std::fs::read_dir(&folder).map_err(failed())? {
        let thread = thread.map_err(failed())?;
        let name = std::fs::read_to_string(thread.path().join("comm")).map_err(failed())?;
        let number = thread.file_name().to_string_lossy().parse();
        if let (PROCESSOR, Ok(number)) = (name.trim_end(), number) {
            return Ok(Pid::from_raw(number));
        }
    }
    Err(HarnessError::Broken(format!(
        "process {pid} has no thread {PROCESSOR}"
    )))
}
