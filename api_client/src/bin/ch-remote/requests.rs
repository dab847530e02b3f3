//! What each subcommand asks the monitor, and what it prints.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_client::client::Client;
use api_client::error::ClientError;
use api_client::options::{self, Key, OptionError, parse_bytes};
use api_client::types::devices::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig,
    UserDeviceConfig, VdpaConfig, VsockConfig,
};
use api_client::types::requests::{
    ReceiveMigrationConfig, RestoreConfig, SendMigrationConfig, VmRemoveDevice, VmResize,
    VmResizeDisk, VmResizeZone, VmSnapshotConfig,
};
use api_client::types::{
    ConfigOverrides, FtFailoverConfig, FtReceiveConfig, FtStartConfig, VsockOverride,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::commands::{Arguments, Command, FtReceive, FtStart, Resize};
use crate::watch;

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The call failed.
    #[error("http client error")]
    Client(#[from] ClientError),
    /// An option string could not be understood.
    #[error("Error parsing {group} syntax")]
    Syntax {
        /// What the string describes.
        group: &'static str,
        /// The flag and what is wrong.
        #[source]
        source: FlagError,
    },
    /// The configuration could not be read.
    #[error("cannot read the configuration from {path}", path = path.display())]
    ReadConfig {
        /// The file; - is the standard input.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer could not be shown.
    #[error("cannot write to the standard output")]
    Output(#[from] io::Error),
}

/// A flag whose argument could not be understood.
#[derive(Debug, thiserror::Error)]
#[error("Error parsing --{flag}")]
pub struct FlagError {
    flag: &'static str,
    #[source]
    source: OptionError,
}

/// One call: a name, and a body if it has one.
struct Call {
    method: Method,
    name: &'static str,
    body: Option<String>,
}

enum Method {
    Get,
    Put,
}

/// Performs the invocation.
///
/// # Errors
/// An argument could not be understood, or the call failed.
pub fn perform(arguments: Arguments) -> Result<(), RemoteError> {
    let socket = arguments.api_socket;
    let socket = PathBuf::from(socket.strip_prefix("path=").unwrap_or(&socket));
    if let Command::FtStatus {
        watch: true,
        interval_ms,
    } = arguments.command
    {
        let mut client = Client::connect(&socket)?;
        return watch::watch(&mut client, Duration::from_millis(interval_ms));
    }
    let call = call_for(arguments.command)?;
    let mut client = Client::connect(&socket)?;
    let answer = match call.method {
        Method::Get => client.get(call.name)?,
        Method::Put => client.put(call.name, call.body.as_deref())?,
    };
    if let Some(text) = answer {
        writeln!(io::stdout(), "{text}")?;
    }
    Ok(())
}

/// The call that a subcommand stands for.
fn call_for(command: Command) -> Result<Call, RemoteError> {
    Ok(match command {
        Command::Boot => put("vm.boot"),
        Command::CancelMigration => put("vm.cancel-migration"),
        Command::Counters => get("vm.counters"),
        Command::Create { path } => Call {
            method: Method::Put,
            name: "vm.create",
            body: Some(read_config(&path)?),
        },
        Command::Delete => put("vm.delete"),
        Command::Info => get("vm.info"),
        Command::Nmi => put("vm.nmi"),
        Command::Pause => put("vm.pause"),
        Command::Ping => get("vmm.ping"),
        Command::PowerButton => put("vm.power-button"),
        Command::Reboot => put("vm.reboot"),
        Command::Resume => put("vm.resume"),
        Command::Shutdown => put("vm.shutdown"),
        Command::ShutdownVmm => put("vmm.shutdown"),
        Command::FtFailover { unplanned } => body(
            "vm.ft-failover",
            &FtFailoverConfig {
                planned: !unplanned,
            },
        )?,
        Command::FtReceive(arguments) => body("vm.ft-receive", &ft_receive(arguments)?)?,
        Command::FtStart(arguments) => body("vm.ft-start", &ft_start(arguments)?)?,
        Command::FtStatus { .. } => get("vm.ft-status"),
        Command::FtStop => put("vm.ft-stop"),
        other => device_call(other)?,
    })
}

/// The calls that change a VM's devices and sizes, save, restore and migrate it.
fn device_call(command: Command) -> Result<Call, RemoteError> {
    use options as table;
    Ok(match command {
        Command::AddDevice(o) => {
            add::<DeviceConfig>("vm.add-device", "device", &o.options, table::DEVICE)?
        }
        Command::AddDisk(o) => add::<DiskConfig>("vm.add-disk", "disk", &o.options, table::DISK)?,
        Command::AddFs(o) => add::<FsConfig>("vm.add-fs", "fs", &o.options, table::FS)?,
        Command::AddGenericVhostUser(o) => add::<GenericVhostUserConfig>(
            "vm.add-generic-vhost-user",
            "generic-vhost-user",
            &o.options,
            table::GENERIC_VHOST_USER,
        )?,
        Command::AddNet(o) => add::<NetConfig>("vm.add-net", "net", &o.options, table::NET)?,
        Command::AddPmem(o) => add::<PmemConfig>("vm.add-pmem", "pmem", &o.options, table::PMEM)?,
        Command::AddUserDevice(o) => add::<UserDeviceConfig>(
            "vm.add-user-device",
            "user-device",
            &o.options,
            table::USER_DEVICE,
        )?,
        Command::AddVdpa(o) => add::<VdpaConfig>("vm.add-vdpa", "vdpa", &o.options, table::VDPA)?,
        Command::AddVsock(o) => {
            add::<VsockConfig>("vm.add-vsock", "vsock", &o.options, table::VSOCK)?
        }
        Command::RemoveDevice { id } => body("vm.remove-device", &VmRemoveDevice { id })?,
        Command::Resize(arguments) => body("vm.resize", &resize(&arguments)?)?,
        Command::ResizeDisk { disk, size } => {
            let desired_size = bytes("disk", "size", &size)?;
            body(
                "vm.resize-disk",
                &VmResizeDisk {
                    id: disk,
                    desired_size,
                },
            )?
        }
        Command::ResizeZone { id, size } => {
            let desired_ram = bytes("zone", "size", &size)?;
            body("vm.resize-zone", &VmResizeZone { id, desired_ram })?
        }
        Command::Restore(o) => body("vm.restore", &restore(&o.options)?)?,
        Command::SendMigration(o) => add::<SendMigrationConfig>(
            "vm.send-migration",
            "send-migration",
            &o.options,
            table::SEND_MIGRATION,
        )?,
        Command::ReceiveMigration(o) => add::<ReceiveMigrationConfig>(
            "vm.receive-migration",
            "receive-migration",
            &o.options,
            table::RECEIVE_MIGRATION,
        )?,
        Command::Snapshot(url) => body(
            "vm.snapshot",
            &VmSnapshotConfig {
                destination_url: url.destination_url,
            },
        )?,
        Command::Coredump(url) => body(
            "vm.coredump",
            &VmSnapshotConfig {
                destination_url: url.destination_url,
            },
        )?,
        other => unreachable!("{other:?} is handled before"),
    })
}

fn get(name: &'static str) -> Call {
    Call {
        method: Method::Get,
        name,
        body: None,
    }
}

fn put(name: &'static str) -> Call {
    Call {
        method: Method::Put,
        name,
        body: None,
    }
}

fn body<T: Serialize>(name: &'static str, value: &T) -> Result<Call, RemoteError> {
    let text = serde_json::to_string(value)
        .map_err(|error| ClientError::Malformed(format!("cannot write the body: {error}")))?;
    Ok(Call {
        method: Method::Put,
        name,
        body: Some(text),
    })
}

/// A call whose body is an option string in JSON.
fn add<T: Serialize + DeserializeOwned>(
    name: &'static str,
    group: &'static str,
    text: &str,
    keys: &[Key],
) -> Result<Call, RemoteError> {
    let value: T = options::parse_into(text, keys).map_err(|error| syntax(group, group, error))?;
    body(name, &value)
}

fn syntax(group: &'static str, flag: &'static str, source: OptionError) -> RemoteError {
    RemoteError::Syntax {
        group,
        source: FlagError { flag, source },
    }
}

fn read_config(path: &Path) -> Result<String, RemoteError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|source| RemoteError::ReadConfig {
        path: path.to_owned(),
        source,
    })
}

fn bytes(group: &'static str, flag: &'static str, text: &str) -> Result<u64, RemoteError> {
    let conversion = || OptionError::Conversion {
        key: flag.to_owned(),
        value: text.to_owned(),
    };
    parse_bytes(text).ok_or_else(|| syntax(group, flag, conversion()))
}

fn resize(arguments: &Resize) -> Result<VmResize, RemoteError> {
    let size = |flag, text: &Option<String>| {
        text.as_deref()
            .map(|text| bytes("resize", flag, text))
            .transpose()
    };
    Ok(VmResize {
        desired_vcpus: arguments.cpus,
        desired_ram: size("memory", &arguments.memory)?,
        desired_balloon: size("balloon", &arguments.balloon)?,
    })
}

/// As [`options::RESTORE`], with the number of each interface's descriptors.
fn restore(text: &str) -> Result<RestoreConfig, RemoteError> {
    let error = |error| syntax("restore", "restore", error);
    let mut object = options::parse(text, options::RESTORE).map_err(error)?;
    if let Some(Value::Array(nets)) = object.get_mut("net_fds") {
        for net in nets.iter_mut().filter_map(Value::as_object_mut) {
            let count = net.get("fds").and_then(Value::as_array).map_or(0, Vec::len);
            net.insert("num_fds".to_owned(), json!(count));
        }
    }
    from_object(object).map_err(error)
}

fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, OptionError> {
    serde_json::from_value(Value::Object(object))
        .map_err(|error| OptionError::InvalidValue(error.to_string()))
}

fn ft_receive(arguments: FtReceive) -> Result<FtReceiveConfig, RemoteError> {
    let url = arguments.receiver_url;
    let receiver_url = url.strip_prefix("receiver_url=").unwrap_or(&url).to_owned();
    let error = |name| move |error| syntax("ft-receive", name, error);
    let serial = arguments.serial.as_deref().map(options::parse_serial);
    let console = arguments.console.as_deref().map(options::parse_console);
    let overrides = ConfigOverrides {
        serial: serial.transpose().map_err(error("serial"))?,
        console: console.transpose().map_err(error("console"))?,
        disks: listed(&arguments.disk, options::DISK_OVERRIDE).map_err(error("disk"))?,
        net: listed(&arguments.net, options::NET_OVERRIDE).map_err(error("net"))?,
        vsock: arguments.vsock.map(|socket| VsockOverride { socket }),
    };
    Ok(FtReceiveConfig {
        receiver_url,
        config_overrides: (overrides != ConfigOverrides::default()).then_some(overrides),
    })
}

/// The objects that option strings describe; none if there are no strings.
fn listed<T: DeserializeOwned>(
    texts: &[String],
    keys: &[Key],
) -> Result<Option<Vec<T>>, OptionError> {
    let objects: Result<Vec<T>, OptionError> = texts
        .iter()
        .map(|text| options::parse_into(text, keys))
        .collect();
    Ok(Some(objects?).filter(|objects| !objects.is_empty()))
}

/// The option string or bare URL, with the flags over it.
fn ft_start(arguments: FtStart) -> Result<FtStartConfig, RemoteError> {
    let error = |error| syntax("ft-start", "ft-start", error);
    let url = arguments.destination_url;
    let mut object = if url.starts_with("destination_url=") || url.contains(",destination_url=") {
        options::parse(&url, options::FT_START).map_err(error)?
    } else {
        Map::from_iter([("destination_url".to_owned(), json!(url))])
    };
    let flags = [
        ("mode", arguments.mode.map(Value::from)),
        ("release", arguments.release.map(Value::from)),
        ("epoch_ms", arguments.epoch_ms.map(Value::from)),
        ("fence", arguments.fence.map(Value::from)),
        ("heartbeat_ms", arguments.heartbeat_ms.map(Value::from)),
        ("timeout_ms", arguments.timeout_ms.map(Value::from)),
        ("lease_ms", arguments.lease_ms.map(Value::from)),
    ];
    for (name, value) in flags {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    }
    if !object.contains_key("fence") {
        return Err(error(OptionError::Missing("fence")));
    }
    from_object(object).map_err(error)
}
