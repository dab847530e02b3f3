//! The command line of `ch-remote`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Controls a running cloud-hypervisor over its API socket.
#[derive(Debug, Parser)]
#[command(
    name = "ch-remote",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Arguments {
    /// API socket of the monitor: a path, or path=PATH
    #[arg(long, value_name = "PATH", required = true)]
    pub api_socket: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `ch-remote` can ask a monitor to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a VFIO device
    AddDevice(Options),
    /// Add a block device
    AddDisk(Options),
    /// Add a shared file system
    AddFs(Options),
    /// Add a vhost-user device of any kind
    AddGenericVhostUser(Options),
    /// Add a network interface
    AddNet(Options),
    /// Add a persistent memory device
    AddPmem(Options),
    /// Add a vfio-user device
    AddUserDevice(Options),
    /// Add a vDPA device
    AddVdpa(Options),
    /// Add the socket device
    AddVsock(Options),
    /// Boot the created VM
    Boot,
    /// Cancel the migration that goes on
    CancelMigration,
    /// Write a core dump of the guest
    Coredump(Url),
    /// Show the devices' counters
    Counters,
    /// Create a VM from a JSON configuration
    Create {
        /// File with the configuration; - is the standard input
        #[arg(default_value = "-")]
        path: PathBuf,
    },
    /// Delete the VM
    Delete,
    /// Change roles with the peer, or promote a backup
    FtFailover {
        /// Promote a backup whose primary is gone, instead of swapping roles
        #[arg(long)]
        unplanned: bool,
    },
    /// Wait for a primary and become the backup of its VM
    FtReceive(FtReceive),
    /// Protect the VM: clone it to a backup and keep that in step
    FtStart(FtStart),
    /// Show the state of the protection
    FtStatus {
        /// Show it again and again
        #[arg(long)]
        watch: bool,
        /// Milliseconds between two looks
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
        interval_ms: u64,
    },
    /// End the protection
    FtStop,
    /// Show the VM's configuration and state
    Info,
    /// Send a non-maskable interrupt
    Nmi,
    /// Pause the VM
    Pause,
    /// Ask whether the monitor answers
    Ping,
    /// Press the power button
    PowerButton,
    /// Reboot the VM
    Reboot,
    /// Receive a VM that migrates here
    ReceiveMigration(Options),
    /// Remove a device
    RemoveDevice {
        /// The device's id
        id: String,
    },
    /// Change the number of processors, the memory or the balloon
    Resize(Resize),
    /// Change a disk's size
    ResizeDisk {
        /// The disk's id
        #[arg(long)]
        disk: String,
        /// New size, with suffix K, M or G
        #[arg(long)]
        size: String,
    },
    /// Change a memory zone's size
    ResizeZone {
        /// The zone's id
        #[arg(long)]
        id: String,
        /// New size, with suffix K, M or G
        #[arg(long)]
        size: String,
    },
    /// Restore a VM from a snapshot
    Restore(Options),
    /// Resume the paused VM
    Resume,
    /// Migrate the VM away
    SendMigration(Options),
    /// Stop the VM at once
    Shutdown,
    /// End the monitor
    ShutdownVmm,
    /// Take a snapshot of the paused VM
    Snapshot(Url),
}

/// An option string.
#[derive(Debug, Args)]
pub struct Options {
    /// key=value,... as the command line of cloud-hypervisor takes them
    pub options: String,
}

/// A place to write to.
#[derive(Debug, Args)]
pub struct Url {
    /// file:// URL
    pub destination_url: String,
}

/// What `resize` changes.
#[derive(Debug, Args)]
pub struct Resize {
    /// Processors
    #[arg(long)]
    pub cpus: Option<u32>,
    /// Bytes of memory, with suffix K, M or G
    #[arg(long)]
    pub memory: Option<String>,
    /// Bytes of the balloon, with suffix K, M or G
    #[arg(long)]
    pub balloon: Option<String>,
}

/// How to become a backup.
#[derive(Debug, Args)]
pub struct FtReceive {
    /// Where to listen: tcp:HOST:PORT, unix:PATH or vsock:CID:PORT
    pub receiver_url: String,
    /// Where the serial port goes on this host, e.g. socket=PATH
    #[arg(long)]
    pub serial: Option<String>,
    /// Where the virtio console goes on this host, e.g. file=PATH
    #[arg(long)]
    pub console: Option<String>,
    /// Where disks' images are on this host: id=NAME,path=PATH
    #[arg(long, num_args = 1..)]
    pub disk: Vec<String>,
    /// Network interfaces' taps on this host: id=NAME,tap=NAME
    #[arg(long, num_args = 1..)]
    pub net: Vec<String>,
    /// Where the socket device's Unix socket is on this host
    #[arg(long)]
    pub vsock: Option<PathBuf>,
}

/// How to protect a VM.
#[derive(Debug, Args)]
pub struct FtStart {
    /// Where the backup listens: tcp:HOST:PORT, unix:PATH or vsock:CID:PORT; or key=value,...
    pub destination_url: String,
    /// How the backup follows: auto, replay or checkpoint
    #[arg(long)]
    pub mode: Option<String>,
    /// What lets an output leave: received, replayed or verified
    #[arg(long)]
    pub release: Option<String>,
    /// Length of an epoch
    #[arg(long)]
    pub epoch_ms: Option<u64>,
    /// Who lives when the two lose each other: file:PATH, etcd:URL or none
    #[arg(long)]
    pub fence: Option<String>,
    /// Time between heartbeats
    #[arg(long)]
    pub heartbeat_ms: Option<u64>,
    /// Silence after which the peer is suspected
    #[arg(long)]
    pub timeout_ms: Option<u64>,
    /// How long an acknowledgement lets outputs leave; longer than the way there and back takes
    #[arg(long)]
    pub lease_ms: Option<u64>,
}
