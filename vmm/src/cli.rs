//! The command line of `cloud-hypervisor`.
//!
//! ```text
//! --api-socket PATH                     wait for calls
//! --kernel FILE [VM options]            create and boot a VM at once; with a socket or without
//! --kernel FILE ... --record FILE       the same, and write a log of it
//! --restore source_url=file://FOLDER    restore a VM from a snapshot; with a socket or without
//! --replay FILE                         replay such a log and verify it
//! --capabilities [--json]               what this host can do
//! ```
//!
//! Exit codes: 0 done; 1 something failed, or an option's value is wrong; 2 wrong usage.

mod arguments;

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use api_client::chain_report;
use api_client::options::{OptionError, parse_console, parse_serial};
use api_client::types::console::ConsoleMode;
use api_client::types::requests::RestoreConfig;
use api_client::types::{ConsoleConfig, HypervisorChoice, PayloadConfig, VmConfig};
use clap::Parser;

use crate::config::{ConfigError, Endpoint, HostLimits, VmSettings, check_restore, options};
use crate::host::serial::SerialTarget;
use arguments::Arguments;

/// The version line, as it begins in every output of `-V`.
pub const VERSION: &str = concat!("cloud-hypervisor v", env!("CARGO_PKG_VERSION"));

/// What the process was started to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Print the version.
    Version,
    /// Print what this host can do.
    Capabilities {
        /// As JSON instead of a table.
        json: bool,
    },
    /// Wait for API calls.
    Serve,
    /// Create and boot a VM, then serve the API if there is a socket.
    Boot {
        /// The VM.
        config: Box<VmConfig>,
        /// The VM's configuration, checked.
        settings: VmSettings,
        /// Where a log of it is written.
        record: Option<PathBuf>,
    },
    /// Restore a VM from a snapshot, then serve the API if there is a socket.
    Restore(Box<RestoreConfig>),
    /// Replay a recorded log and verify it.
    Replay {
        /// The log.
        log: PathBuf,
        /// Where the serial port's output goes; `None` discards it.
        serial: Option<SerialTarget>,
        /// Which backend runs the processor.
        hypervisor: HypervisorChoice,
    },
}

/// How system calls of the monitor are confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Forbidden calls end the process.
    #[default]
    Trap,
    /// Forbidden calls are logged and made.
    Log,
    /// Forbidden calls fail.
    Errno,
    /// Nothing is forbidden.
    Off,
}

/// The command line, understood and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandLine {
    /// What to do.
    pub mode: Mode,
    /// Where API calls are taken.
    pub api_socket: Option<Endpoint>,
    /// Where events go.
    pub event_monitor: Option<Endpoint>,
    /// Where the log for people goes, instead of the standard error.
    pub log_file: Option<PathBuf>,
    /// Number of `-v`.
    pub verbosity: u8,
    /// Confinement asked for.
    pub seccomp: Seccomp,
    /// Whether the process stays when its VM ends.
    pub no_shutdown: bool,
}

/// Why a command line was refused.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Wrong usage, or a request for help.
    #[error("{0}")]
    Usage(#[source] Box<clap::Error>),
    /// An option's value is wrong.
    #[error("Error parsing config")]
    Config(#[source] OptionFailure),
    /// The host cannot be asked what it has.
    #[error("cannot find out what the host has")]
    Host(#[source] std::io::Error),
}

/// An option whose value is wrong.
#[derive(Debug, thiserror::Error)]
pub enum OptionFailure {
    /// Its text cannot be understood.
    #[error("Error parsing --{flag}")]
    Syntax {
        /// The option.
        flag: &'static str,
        /// What is wrong.
        #[source]
        source: OptionError,
    },
    /// An option that the interface has and this build does not.
    #[error("--{0} is not supported by this build")]
    NotSupported(&'static str),
    /// The VM it describes cannot be had.
    #[error("Failed to validate config")]
    Invalid(#[from] ConfigError),
}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

impl CliError {
    /// Tells the user, and returns the code to exit with.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                if let Err(failure) = error.print() {
                    log::error!("cannot print how this command is used: {failure}");
                }
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
            failure => report_failure(failure),
        }
    }
}

/// Prints why the process ends, one numbered line per cause, and returns the code to exit with.
pub fn report_failure(error: &dyn Error) -> ExitCode {
    log::error!("Fatal error: {error:?}");
    eprint!("{}", chain_report("Cloud Hypervisor", error));
    ExitCode::FAILURE
}

impl CommandLine {
    /// Reads a command line; the first argument is the program's name.
    ///
    /// # Errors
    /// Wrong usage, or a wrong value.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliError> {
        let host = HostLimits::probe().map_err(CliError::Host)?;
        Self::parse_for(arguments, &host)
    }

    fn parse_for(
        arguments: impl IntoIterator<Item = OsString>,
        host: &HostLimits,
    ) -> Result<Self, CliError> {
        let arguments = Arguments::try_parse_from(arguments)?;
        arguments.check_usage()?;
        Self::from_arguments(arguments, host).map_err(CliError::Config)
    }

    fn from_arguments(arguments: Arguments, host: &HostLimits) -> Result<Self, OptionFailure> {
        if let Some(flag) = arguments.first_unsupported() {
            return Err(OptionFailure::NotSupported(flag));
        }
        let endpoint = |flag, text: &Option<String>| {
            text.as_deref()
                .map(|text| parsed(flag, Endpoint::parse(text)))
                .transpose()
        };
        let seccomp = match arguments.seccomp.as_str() {
            "log" => Seccomp::Log,
            "errno" => Seccomp::Errno,
            "false" => Seccomp::Off,
            _ => Seccomp::Trap,
        };
        Ok(Self {
            api_socket: endpoint("api-socket", &arguments.api_socket)?,
            event_monitor: endpoint("event-monitor", &arguments.event_monitor)?,
            log_file: arguments.log_file.clone(),
            verbosity: arguments.verbosity,
            seccomp,
            no_shutdown: arguments.no_shutdown,
            mode: mode(&arguments, host)?,
        })
    }
}

fn parsed<T>(flag: &'static str, result: Result<T, OptionError>) -> Result<T, OptionFailure> {
    result.map_err(|source| OptionFailure::Syntax { flag, source })
}

fn mode(arguments: &Arguments, host: &HostLimits) -> Result<Mode, OptionFailure> {
    if arguments.version {
        return Ok(Mode::Version);
    }
    if arguments.capabilities {
        return Ok(Mode::Capabilities {
            json: arguments.json,
        });
    }
    if let Some(log) = &arguments.replay {
        let config = vm_config(arguments)?;
        let serial = crate::config::serial_target("serial", &config.serial)?;
        let platform = config.platform.unwrap_or_default();
        let hypervisor = platform.hypervisor.unwrap_or_default();
        return Ok(Mode::Replay {
            log: log.clone(),
            serial,
            hypervisor,
        });
    }
    if let Some(text) = &arguments.restore {
        let config = parsed("restore", options::restore(text))?;
        check_restore(&config)?;
        return Ok(Mode::Restore(Box::new(config)));
    }
    if !arguments.boots() {
        return Ok(Mode::Serve);
    }
    let config = Box::new(vm_config(arguments)?);
    // Names and addresses that were not chosen are made up when the VM is created.
    let mut named = config.as_ref().clone();
    VmSettings::settle(&mut named, || [0; 6]);
    let settings = VmSettings::validate(&named, host)?;
    Ok(Mode::Boot {
        config,
        settings,
        record: arguments.record.clone(),
    })
}

/// The VM that the options describe.
fn vm_config(arguments: &Arguments) -> Result<VmConfig, OptionFailure> {
    let payload = PayloadConfig {
        firmware: arguments.firmware.clone(),
        kernel: arguments.kernel.clone(),
        cmdline: arguments.cmdline.clone(),
        initramfs: arguments.initramfs.clone(),
        ..PayloadConfig::default()
    };
    let mut config = VmConfig {
        payload: Some(payload),
        ..VmConfig::default()
    };
    if let Some(text) = &arguments.cpus {
        config.cpus = parsed("cpus", options::cpus(text))?;
    }
    if let Some(text) = &arguments.memory {
        config.memory = parsed("memory", options::memory(text))?;
    }
    if let Some(text) = &arguments.platform {
        config.platform = Some(parsed("platform", options::platform(text))?);
    }
    if let Some(text) = &arguments.rng {
        config.rng = parsed("rng", options::rng(text))?;
    }
    if let Some(text) = &arguments.serial {
        config.serial = parsed("serial", parse_serial(text))?;
    }
    config.console = console(arguments.console.as_deref())?;
    if !arguments.disk.is_empty() {
        let disks = arguments.disk.iter().map(|text| options::disk(text));
        config.disks = Some(parsed("disk", disks.collect())?);
    }
    if !arguments.net.is_empty() {
        let cards = arguments.net.iter().map(|text| options::net(text));
        config.net = Some(parsed("net", cards.collect())?);
    }
    if let Some(text) = &arguments.vsock {
        config.vsock = Some(parsed("vsock", options::vsock(text))?);
    }
    config.watchdog = arguments.watchdog;
    config.pvpanic = arguments.pvpanic;
    config.landlock_enable = arguments.landlock;
    Ok(config)
}

/// The interface's default is the terminal; a command line that does not ask for a console has
/// none.
fn console(text: Option<&str>) -> Result<ConsoleConfig, OptionFailure> {
    let Some(text) = text else {
        return Ok(ConsoleConfig {
            mode: ConsoleMode::Off,
            ..ConsoleConfig::default()
        });
    };
    parsed("console", parse_console(text))
}

#[cfg(test)]
mod tests;
