//! The `cloud-hypervisor` command: reads the command line, puts the parts together, and waits for
//! the end.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use api_client::types::VmConfig;
use ft::status::End;
use hypervisor::HostCapabilities;
use vmm::api::{ApiServer, ApiSocket};
use vmm::cli::{CommandLine, Mode, VERSION, report_failure};
use vmm::config::{Endpoint, inherited};
use vmm::control::{BootError, Control, Notice, Setting};
use vmm::event_monitor::EventMonitor;
use vmm::{backend, logging, offline, signals};

/// Why the process cannot do what it was started for.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let start = Instant::now();
    die_of_any_panic();
    let line = match CommandLine::parse(std::env::args_os()) {
        Ok(line) => line,
        Err(error) => return error.report(),
    };
    if let Err(error) = logging::start(start, line.verbosity, line.log_file.as_deref()) {
        return report_failure(&error);
    }
    match run(start, line) {
        Ok(code) => code,
        Err(error) => report_failure(error.as_ref()),
    }
}

/// A process that goes on without one of its threads would not fail over. Where a panic does not
/// abort by itself, because the build shares its libraries with tests, a hook sees to it.
fn die_of_any_panic() {
    #[cfg(panic = "unwind")]
    {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            std::process::abort();
        }));
    }
}

fn run(start: Instant, line: CommandLine) -> Result<ExitCode, Failure> {
    match &line.mode {
        Mode::Version => {
            println!("{VERSION}");
            Ok(ExitCode::SUCCESS)
        }
        Mode::Capabilities { json } => {
            let capabilities = HostCapabilities::probe();
            if *json {
                println!("{}", serde_json::to_string_pretty(&capabilities)?);
            } else {
                print!("{}", capabilities.table());
            }
            Ok(ExitCode::SUCCESS)
        }
        Mode::Replay {
            log,
            serial,
            hypervisor,
        } => {
            let hypervisor = backend::choose(*hypervisor)?;
            let summary = offline::replay(log, serial.clone(), hypervisor.as_ref())?;
            println!("{}", serde_json::to_string_pretty(&summary)?);
            let whole = summary.divergences.is_empty() && summary.cut_at.is_none();
            Ok(if whole {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Mode::Serve | Mode::Boot { .. } | Mode::Restore(_) => serve(start, line),
    }
}

/// A name for this side that no other has: host, process, and when it started.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{}-{}-{}",
        host.trim(),
        std::process::id(),
        since.as_nanos()
    )
}

fn event_monitor(start: Instant, place: Option<&Endpoint>) -> Result<EventMonitor, Failure> {
    let file = match place {
        None => return Ok(EventMonitor::silent(start)),
        Some(Endpoint::Path(path)) => EventMonitor::open(path)?,
        Some(Endpoint::Fd(fd)) => File::from(inherited(*fd)?),
    };
    Ok(EventMonitor::writing(start, file)?)
}

fn serve(start: Instant, line: CommandLine) -> Result<ExitCode, Failure> {
    let monitor = Arc::new(event_monitor(start, line.event_monitor.as_ref())?);
    let socket = line.api_socket.as_ref().map(ApiSocket::open).transpose()?;
    monitor.event("vmm", "starting", Vec::new());
    let (notices, noticed) = mpsc::channel();
    let sink = monitor.clone();
    let control = Control::new(Setting {
        backends: backend::choose,
        events: Arc::new(move |source, event, properties| sink.event(source, event, properties)),
        notices: notices.clone(),
        owner: owner(),
    });
    signals::on_termination(move || {
        // The main thread may be on its way out already.
        let _ = notices.send(Notice::Quit);
    })?;
    let server = match socket {
        Some(socket) => Some(ApiServer::start(socket, control.clone())?),
        None => None,
    };
    let code = match line.mode {
        Mode::Boot { config, record, .. } => {
            let booted = boot(&control, *config, record.as_deref());
            let waited = booted.map(|()| wait(&control, &noticed, line.no_shutdown));
            waited.map_err(Failure::from)
        }
        Mode::Restore(config) => {
            let restored = control.restore(&config).map_err(BootError::from);
            let waited = restored.map(|()| wait(&control, &noticed, line.no_shutdown));
            waited.map_err(Failure::from)
        }
        _ => Ok(wait(&control, &noticed, true)),
    };
    control.quit();
    monitor.event("vmm", "shutdown", Vec::new());
    monitor.close();
    if let Some(server) = server {
        server.stop();
    }
    code
}

fn boot(control: &Control, config: VmConfig, record: Option<&Path>) -> Result<(), BootError> {
    let sink = record.map(offline::create).transpose()?;
    control.create(config)?;
    control.boot(sink)?;
    Ok(())
}

/// Waits until the process has nothing left to do.
fn wait(control: &Control, noticed: &mpsc::Receiver<Notice>, stays: bool) -> ExitCode {
    loop {
        match noticed.recv() {
            Ok(Notice::Quit | Notice::Migrated) | Err(_) => return ExitCode::SUCCESS,
            Ok(Notice::Ended {
                end: End::PoweredOff,
                ..
            }) if stays => {
                if let Err(error) = control.shutdown() {
                    log::error!("{error}");
                }
            }
            Ok(Notice::Ended {
                end: End::PoweredOff,
                ..
            }) => return ExitCode::SUCCESS,
            Ok(Notice::Ended {
                end: End::Failed(reason),
                live: true,
            }) => {
                log::error!("the virtual machine failed: {reason}");
                eprintln!("Error: the virtual machine failed: {reason}");
                return ExitCode::FAILURE;
            }
            // Fenced, stopped, or a backup that came to nothing: the process stays, so that the
            // status can be asked for, and can receive again.
            Ok(Notice::Ended { end, .. }) => log::warn!("the virtual machine has ended: {end:?}"),
        }
    }
}
