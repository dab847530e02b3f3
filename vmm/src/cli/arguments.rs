//! The options as clap reads them, before their values are understood.
//!
//! Options that the interface has and this build does not are here too, hidden: they are refused
//! by name instead of as unknown.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};

/// Runs a virtual machine, or waits for calls that say which.
#[derive(Debug, Parser)]
#[command(
    name = "cloud-hypervisor",
    disable_version_flag = true,
    arg_required_else_help = true
)]
pub(super) struct Arguments {
    /// API socket: a path, path=PATH or fd=N
    #[arg(long, value_name = "ENDPOINT")]
    pub api_socket: Option<String>,
    /// Kernel image: bzImage or ELF
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Processors: boot=N,max=N
    #[arg(long, value_name = "OPTIONS")]
    pub cpus: Option<String>,
    /// Memory: size=SIZE, with suffix K, M or G
    #[arg(long, value_name = "OPTIONS")]
    pub memory: Option<String>,
    /// Serial port: off, null, tty, file=PATH or socket=PATH
    #[arg(long, value_name = "OPTIONS")]
    pub serial: Option<String>,
    /// Virtio console: off, null, tty, pty or file=PATH
    #[arg(long, value_name = "OPTIONS")]
    pub console: Option<String>,
    /// Disks: path=PATH,readonly=on|off,serial=TEXT,id=NAME,ft=replicate|shared,...
    #[arg(long, value_name = "OPTIONS", num_args = 1..)]
    pub disk: Vec<String>,
    /// Network cards: tap=NAME,mac=MAC,ip=IP,mask=MASK,mtu=N,id=NAME
    #[arg(long, value_name = "OPTIONS", num_args = 1..)]
    pub net: Vec<String>,
    /// Random bytes for the guest: src=PATH
    #[arg(long, value_name = "OPTIONS")]
    pub rng: Option<String>,
    /// Socket device: cid=N,socket=PATH
    #[arg(long, value_name = "OPTIONS")]
    pub vsock: Option<String>,
    /// Platform: hypervisor=auto, kvm or software
    #[arg(long, value_name = "OPTIONS")]
    pub platform: Option<String>,
    /// Write a log of the VM, from which it can be replayed
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Replay a recorded log and verify it
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// Restore a VM from a snapshot: source_url=file://FOLDER,resume=on|off
    #[arg(long, value_name = "OPTIONS")]
    pub restore: Option<String>,
    /// Print what this host can do, and which kinds of protection follow
    #[arg(long)]
    pub capabilities: bool,
    /// Print capabilities as JSON
    #[arg(long, requires = "capabilities")]
    pub json: bool,
    /// Where events go: path=PATH or fd=N
    #[arg(long, value_name = "ENDPOINT")]
    pub event_monitor: Option<String>,
    /// File for the log, instead of the standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Log more: information, debugging, everything
    #[arg(short = 'v', action = ArgAction::Count)]
    pub verbosity: u8,
    /// Confinement of system calls
    #[arg(long, default_value = "true", value_parser = ["true", "false", "log", "errno"])]
    pub seccomp: String,
    /// Stay when the VM ends
    #[arg(long)]
    pub no_shutdown: bool,
    /// Print the version
    #[arg(short = 'V', long)]
    pub version: bool,

    #[arg(long, hide = true)]
    pub firmware: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub watchdog: bool,
    #[arg(long, hide = true)]
    pub pvpanic: bool,
    #[arg(long, hide = true)]
    pub landlock: bool,
    #[arg(long, hide = true)]
    debug_console: Option<String>,
    #[arg(long, hide = true, num_args = 1..)]
    memory_zone: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    rate_limit_group: Vec<String>,
    #[arg(long, hide = true)]
    balloon: Option<String>,
    #[arg(long, hide = true, num_args = 1..)]
    fs: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    generic_vhost_user: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    pmem: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    vdpa: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    device: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    user_device: Vec<String>,
    #[arg(long, hide = true)]
    tpm: Option<String>,
    #[arg(long, hide = true, num_args = 1..)]
    numa: Vec<String>,
    #[arg(long, hide = true, num_args = 1..)]
    pci_segment: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "")]
    rtc: Option<String>,
    #[arg(long, hide = true, num_args = 1..)]
    landlock_rules: Vec<String>,
    #[arg(long, hide = true)]
    log_format: Option<String>,
    #[arg(long, hide = true)]
    igvm: Option<PathBuf>,
    #[arg(long, hide = true)]
    gdb: Option<String>,
}

impl Arguments {
    /// Whether a VM is to boot at once.
    pub(super) fn boots(&self) -> bool {
        self.kernel.is_some() || self.firmware.is_some()
    }

    /// Refuses combinations that make no sense.
    pub(super) fn check_usage(&self) -> Result<(), clap::Error> {
        let wrong = |kind, text: String| Err(Self::command().error(kind, text));
        if self.version || self.capabilities {
            return Ok(());
        }
        if self.replay.is_some() {
            if let Some(flag) = self.first_boot_option() {
                let text = format!("--{flag} cannot be used with --replay: the log has the VM");
                return wrong(ErrorKind::ArgumentConflict, text);
            }
            return Ok(());
        }
        if self.restore.is_some() {
            if let Some(flag) = self.first_boot_option() {
                let text =
                    format!("--{flag} cannot be used with --restore: the snapshot has the VM");
                return wrong(ErrorKind::ArgumentConflict, text);
            }
            return Ok(());
        }
        if self.boots() {
            return Ok(());
        }
        let replayable = [
            ("serial", self.serial.is_some()),
            ("platform", self.platform.is_some()),
        ];
        let given = self.first_boot_option();
        let given = given
            .or_else(|| first(&replayable))
            .or_else(|| self.first_device());
        if let Some(flag) = given {
            let text = format!("--{flag} needs --kernel: there is no VM without one");
            return wrong(ErrorKind::MissingRequiredArgument, text);
        }
        if self.api_socket.is_none() {
            let text =
                "nothing to do: give --kernel, --restore, --replay or --api-socket".to_owned();
            return wrong(ErrorKind::MissingRequiredArgument, text);
        }
        Ok(())
    }

    /// The first option given that describes a VM to boot, and not only how to run it.
    fn first_boot_option(&self) -> Option<&'static str> {
        first(&[
            ("kernel", self.kernel.is_some()),
            ("firmware", self.firmware.is_some()),
            ("initramfs", self.initramfs.is_some()),
            ("cmdline", self.cmdline.is_some()),
            ("cpus", self.cpus.is_some()),
            ("memory", self.memory.is_some()),
            ("console", self.console.is_some()),
            ("disk", !self.disk.is_empty()),
            ("net", !self.net.is_empty()),
            ("vsock", self.vsock.is_some()),
            ("record", self.record.is_some()),
            ("rng", self.rng.is_some()),
            ("watchdog", self.watchdog),
            ("pvpanic", self.pvpanic),
        ])
    }

    /// The first option given that this build does not have.
    pub(super) fn first_unsupported(&self) -> Option<&'static str> {
        let debug_console = self.debug_console.as_deref();
        let console = debug_console.is_some_and(|text| text != "off" && !text.starts_with("off,"));
        first(&[
            ("debug-console", console),
            ("log-format", self.log_format.is_some()),
            ("landlock-rules", !self.landlock_rules.is_empty()),
            ("gdb", self.gdb.is_some()),
        ])
        .or_else(|| self.first_device())
    }

    fn first_device(&self) -> Option<&'static str> {
        first(&[
            ("memory-zone", !self.memory_zone.is_empty()),
            ("rate-limit-group", !self.rate_limit_group.is_empty()),
            ("balloon", self.balloon.is_some()),
            ("fs", !self.fs.is_empty()),
            ("generic-vhost-user", !self.generic_vhost_user.is_empty()),
            ("pmem", !self.pmem.is_empty()),
            ("vdpa", !self.vdpa.is_empty()),
            ("device", !self.device.is_empty()),
            ("user-device", !self.user_device.is_empty()),
            ("tpm", self.tpm.is_some()),
            ("numa", !self.numa.is_empty()),
            ("pci-segment", !self.pci_segment.is_empty()),
            ("rtc", self.rtc.is_some()),
            ("igvm", self.igvm.is_some()),
        ])
    }
}

fn first(flags: &[(&'static str, bool)]) -> Option<&'static str> {
    flags
        .iter()
        .find(|(_, given)| *given)
        .map(|(flag, _)| *flag)
}
