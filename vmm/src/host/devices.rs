//! The host sides of all devices of one machine, as its thread uses them.
//!
//! ```text
//!   prepare ──▶ images of the machine's own disks are open, nothing else is
//!   activate / go_live ──▶ taps, sockets, terminals, shared images are open; requests are served
//!   leave ──▶ as after prepare, and nothing is in flight
//! ```

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::sync::{Arc, Mutex, PoisonError};

use devices::board::DeviceEvent;
use devices::virtio::any::VirtioConfig;
use devices::virtio::block::{BlockConfig, SECTOR_SIZE};
use devices::virtio::console::ConsoleConfig;
use devices::virtio::event::VirtioEvent;
use devices::virtio::net::NetConfig;
use devices::virtio::vsock::VsockConfig;
use ft::event::Output;

use super::disk::{DiskImage, ImageFormat, open};
use super::disk_host::{DiskCounters, DiskHost, OperationCounters, OwnImage};
use super::disk_quiet::Quiet;
use super::disk_store::ImageStore;
use super::entropy::EntropyHost;
use super::offer::Offer;
use super::serial::{Input, SerialHost, SerialTarget};
use super::tap::{TapCounters, TapHost};
use super::vsock::VsockHost;
use crate::config::{DeviceKind, DeviceSettings, DiskSettings};
use crate::machine::{DiskMode, DiskStores, SERIAL, VirtioSpec, decode_disk_output, virtio_index};
use crate::vm::{Counters, HostSide, Live, Mailbox, Message, Port};

/// Terminal size that a console begins with.
const CONSOLE: ConsoleConfig = ConsoleConfig {
    columns: 80,
    rows: 25,
};
/// The serial port's name.
pub const SERIAL_NAME: &str = "__serial";
/// The virtio console's name.
pub const CONSOLE_NAME: &str = "__console";
/// Bytes of a logical block.
const BLOCK_SIZE: u32 = 512;

/// Why a host side cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("device {id}")]
pub struct DeviceError {
    /// The device's name.
    pub id: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl DeviceError {
    fn in_one_line(&self) -> String {
        crate::control::causes(self).join(": ")
    }
}

fn failed(id: &str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> DeviceError + use<'_> {
    move |source| DeviceError {
        id: id.to_owned(),
        source,
    }
}

/// The images of disks by the index of their devices.
#[derive(Default)]
pub struct Images(BTreeMap<usize, OwnImage>);

impl Images {
    /// Opens the images of all disks, for a machine that begins here.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn open_all(settings: &[DeviceSettings]) -> Result<Self, DeviceError> {
        let mut images = BTreeMap::new();
        for (index, device) in settings.iter().enumerate() {
            if let DeviceKind::Disk(disk) = &device.kind {
                let image = open(&disk.target);
                let image = image.map_err(|error| failed(&device.id)(Box::new(error)))?;
                images.insert(index, own(image));
            }
        }
        Ok(Self(images))
    }

    /// Opens the images of replicated disks for a machine that is made elsewhere, as `specs` says.
    /// An image that is not there is made.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn open_replicated(
        settings: &[DeviceSettings],
        specs: &[VirtioSpec],
    ) -> Result<Self, DeviceError> {
        let mut images = BTreeMap::new();
        for (index, (device, spec)) in settings.iter().zip(specs).enumerate() {
            let DeviceKind::Disk(disk) = &device.kind else {
                continue;
            };
            let Some(size) = spec.replicated_bytes() else {
                // It is opened at the take-over; what would be missing then is better said now.
                if !disk.target.path.exists() {
                    let path = disk.target.path.display();
                    let text = format!("the shared image {path} is not there");
                    return Err(failed(&device.id)(text.into()));
                }
                continue;
            };
            let image = open_or_make(disk, size).map_err(|error| failed(&device.id)(error))?;
            if image.size() != size {
                let path = disk.target.path.display();
                let text = format!(
                    "image {path} has {} bytes, the primary's has {size}",
                    image.size()
                );
                return Err(failed(&device.id)(text.into()));
            }
            images.insert(index, own(image));
        }
        Ok(Self(images))
    }

    /// Bytes of the image of a device.
    pub fn size(&self, index: usize) -> Option<u64> {
        self.0.get(&index).map(|own| own.image.size())
    }

    /// The contents of the machine's own disks.
    ///
    /// # Errors
    /// When the host has no thread for one.
    pub fn stores(&self, specs: &[VirtioSpec]) -> std::io::Result<DiskStores> {
        let mut stores = DiskStores::new();
        for (index, image) in &self.0 {
            if specs
                .get(*index)
                .is_some_and(|spec| spec.replicated_bytes().is_some())
            {
                stores.insert(*index, Box::new(ImageStore::new(image.clone())?));
            }
        }
        Ok(stores)
    }
}

/// An image that nobody works on yet.
fn own(image: Arc<dyn DiskImage>) -> OwnImage {
    let quiet = Quiet::default();
    OwnImage { image, quiet }
}

/// Opens a disk's image; makes a plain one of `size` bytes if there is none.
fn open_or_make(
    disk: &DiskSettings,
    size: u64,
) -> Result<Arc<dyn DiskImage>, Box<dyn std::error::Error + Send + Sync>> {
    // A guest may not write to a read-only disk, but the clone has to.
    let mut target = disk.target.clone();
    target.read_only = false;
    if !target.path.exists() {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&target.path);
        let made = file.and_then(|file| file.set_len(size));
        made.map_err(|error| format!("cannot make image {}: {error}", target.path.display()))?;
        target.format = Some(ImageFormat::Raw);
    }
    Ok(open(&target)?)
}

/// What the guest is to see of each device. `recorded` machines have no disks of their own.
pub fn specs(settings: &[DeviceSettings], images: &Images, recorded: bool) -> Vec<VirtioSpec> {
    let specs = settings.iter().enumerate().map(|(index, device)| {
        let mut mode = DiskMode::Outside;
        let config = match &device.kind {
            DeviceKind::Console(_) => VirtioConfig::Console(CONSOLE),
            DeviceKind::Entropy(_) => VirtioConfig::Entropy,
            DeviceKind::Disk(disk) => {
                if !recorded {
                    mode = disk.mode;
                }
                let size = images.size(index).unwrap_or_default();
                VirtioConfig::Block(BlockConfig {
                    sectors: size / SECTOR_SIZE,
                    read_only: disk.target.read_only,
                    block_size: BLOCK_SIZE,
                    serial: BlockConfig::serial_of(&disk.serial),
                })
            }
            DeviceKind::Net(net) => VirtioConfig::Net(NetConfig {
                mac: net.mac,
                mtu: net.mtu,
                offload: net.offload,
                udp_fragmentation: false,
            }),
            DeviceKind::Vsock(vsock) => VirtioConfig::Vsock(VsockConfig {
                guest_cid: u64::from(vsock.cid),
            }),
        };
        VirtioSpec { config, disk: mode }
    });
    specs.collect()
}

/// The host side of one virtio device.
enum VirtioHost {
    Disk(DiskHost),
    Net(TapHost),
    Console(SerialHost),
    Entropy(EntropyHost),
    Vsock(VsockHost),
}

/// The host sides of a machine's devices.
pub struct HostDevices {
    settings: Vec<DeviceSettings>,
    serial_target: Option<SerialTarget>,
    serial: Option<SerialHost>,
    virtio: Vec<VirtioHost>,
    specs: Vec<VirtioSpec>,
    ports: Vec<Port>,
    mailbox: Mailbox,
}

impl HostDevices {
    /// Host sides that are not open yet, but for the images.
    pub fn prepare(
        settings: Vec<DeviceSettings>,
        serial: Option<SerialTarget>,
        images: Images,
        specs: Vec<VirtioSpec>,
        mailbox: Mailbox,
    ) -> Self {
        let mut devices = Self {
            settings,
            serial_target: serial,
            serial: None,
            virtio: Vec::new(),
            specs,
            ports: Vec::new(),
            mailbox,
        };
        devices.make(images);
        devices
    }

    /// Makes the host sides of a tenure.
    fn make(&mut self, mut images: Images) {
        self.ports = (0..self.settings.len())
            .map(|index| self.mailbox.port(index))
            .collect();
        let permit = self.mailbox.permit().clone();
        self.serial = self
            .serial_target
            .clone()
            .map(|target| SerialHost::new(target, self.serial_input()))
            .map(|serial| serial.under(permit.clone()));
        let devices = self.settings.iter().zip(&self.ports).enumerate();
        let virtio = devices.map(|(index, (device, port))| {
            let offer = offer(port);
            match &device.kind {
                DeviceKind::Console(target) => {
                    let console = SerialHost::for_console(target.clone(), offer);
                    VirtioHost::Console(console.under(permit.clone()))
                }
                DeviceKind::Entropy(source) => {
                    VirtioHost::Entropy(EntropyHost::new(source.clone(), offer))
                }
                DeviceKind::Disk(disk) => {
                    let mode = self
                        .specs
                        .get(index)
                        .map_or(DiskMode::Outside, |spec| spec.disk);
                    let image = images.0.remove(&index);
                    let (target, permit) = (disk.target.clone(), permit.clone());
                    VirtioHost::Disk(DiskHost::new(target, mode, image, permit))
                }
                DeviceKind::Net(net) => VirtioHost::Net(TapHost::new(net.tap.clone(), offer)),
                DeviceKind::Vsock(vsock) => {
                    let host = VsockHost::new(u64::from(vsock.cid), vsock.socket.clone(), offer);
                    VirtioHost::Vsock(host)
                }
            }
        });
        self.virtio = virtio.collect();
    }

    fn serial_input(&self) -> Input {
        let mailbox = Mutex::new(self.mailbox.clone());
        Arc::new(move |bytes: &[u8]| {
            let mailbox = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
            mailbox.send(Message::Serial(bytes.to_vec()));
        })
    }

    /// Opens everything, for a machine that begins here.
    ///
    /// # Errors
    /// The first host side that cannot be had.
    pub fn activate(&mut self) -> Result<(), DeviceError> {
        match self.open(None).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Opens what can be opened; says what cannot.
    fn open(&mut self, live: Option<&Live<'_>>) -> Vec<DeviceError> {
        let mut errors = Vec::new();
        if let Some(serial) = &mut self.serial
            && let Err(error) = serial.activate(live.is_some())
        {
            errors.push(failed(SERIAL_NAME)(Box::new(error)));
        }
        let devices = self.settings.iter().zip(&mut self.virtio).enumerate();
        for (index, (device, host)) in devices {
            let opened: Result<(), Box<dyn std::error::Error + Send + Sync>> = match host {
                VirtioHost::Disk(disk) => {
                    let port = self.ports[index].clone();
                    disk.activate(port).map_err(Into::into)
                }
                VirtioHost::Net(tap) => {
                    let configured = match &device.kind {
                        DeviceKind::Net(net) => net.mac,
                        _ => [0; 6],
                    };
                    let machine = live.map(|live| live.machine);
                    let mac = machine.and_then(|machine| machine.net_address(index));
                    let features = machine.and_then(|machine| machine.virtio_features(index));
                    let opened = tap.activate(mac.unwrap_or(configured), features);
                    opened.map_err(Into::into)
                }
                VirtioHost::Console(console) => {
                    console.activate(live.is_some()).map_err(Into::into)
                }
                VirtioHost::Entropy(entropy) => entropy.activate().map_err(Into::into),
                VirtioHost::Vsock(vsock) => vsock.activate().map_err(Into::into),
            };
            if let Err(source) = opened {
                errors.push(failed(&device.id)(source));
            }
        }
        errors
    }
}

fn offer(port: &Port) -> Offer {
    let port = Mutex::new(port.clone());
    Arc::new(move |input| {
        let port = port.lock().unwrap_or_else(PoisonError::into_inner);
        port.offer(input)
    })
}

impl HostSide for HostDevices {
    fn output(&mut self, output: &Output) {
        if output.device == SERIAL {
            if let Some(serial) = &self.serial {
                serial.write(&output.payload);
            }
            return;
        }
        let Some(index) = virtio_index(output.device) else {
            return;
        };
        match self.virtio.get_mut(index) {
            Some(VirtioHost::Net(tap)) => tap.write(&output.payload),
            Some(VirtioHost::Console(console)) => console.write(&output.payload),
            Some(VirtioHost::Vsock(vsock)) => vsock.packet(&output.payload),
            Some(VirtioHost::Disk(disk)) => match decode_disk_output(&output.payload) {
                Ok(request) => disk.request(request, &self.ports[index]),
                Err(error) => log::error!("device {index}: a request is malformed: {error}"),
            },
            Some(VirtioHost::Entropy(_)) | None => {}
        }
    }

    fn request(&mut self, request: DeviceEvent) {
        let DeviceEvent { device, event } = request;
        match (self.virtio.get_mut(device), event) {
            (Some(VirtioHost::Disk(disk)), VirtioEvent::Block(request)) => {
                disk.request(request, &self.ports[device]);
            }
            (Some(VirtioHost::Entropy(entropy)), VirtioEvent::EntropyRequest { id, len }) => {
                entropy.request(id, len);
            }
            (Some(VirtioHost::Net(tap)), VirtioEvent::DriverReady { features }) => {
                tap.driver_ready(features);
            }
            (Some(VirtioHost::Net(tap)), VirtioEvent::DeviceReset) => tap.driver_gone(),
            (Some(VirtioHost::Vsock(vsock)), VirtioEvent::DeviceReset) => vsock.reset(),
            (_, VirtioEvent::Fault(fault)) => {
                log::warn!("device {device}: the driver broke the protocol: {fault}");
            }
            _ => {}
        }
    }

    fn go_live(&mut self, live: &Live<'_>) -> Vec<String> {
        let errors = self.open(Some(live));
        errors.iter().map(DeviceError::in_one_line).collect()
    }

    fn resize_disk(&mut self, device: usize, size: u64) -> Result<(), String> {
        let Some(VirtioHost::Disk(disk)) = self.virtio.get(device) else {
            return Err(format!("device {device} is no disk"));
        };
        disk.resize(size, self.ports[device].clone())
            .map_err(|error| error.to_string())
    }

    fn leave(&mut self, comes_back: bool) {
        let mut images = BTreeMap::new();
        let old = std::mem::take(&mut self.virtio);
        let mut ports: Vec<SerialHost> = self.serial.take().into_iter().collect();
        for (index, host) in old.into_iter().enumerate() {
            match host {
                VirtioHost::Disk(disk) => {
                    images.extend(disk.leave(comes_back).map(|own| (index, own)));
                }
                VirtioHost::Console(console) => ports.push(console),
                VirtioHost::Net(_) | VirtioHost::Entropy(_) | VirtioHost::Vsock(_) => {}
            }
        }
        for port in ports {
            port.let_go();
            // It waits for a client to take what is left, which the backup must not.
            std::thread::spawn(move || drop(port));
        }
        self.make(Images(images));
    }

    fn flush_disks(&self, done: Box<dyn FnOnce() + Send>) {
        let images = self.virtio.iter().filter_map(|host| match host {
            VirtioHost::Disk(disk) => disk.image(),
            _ => None,
        });
        let images: Vec<_> = images.collect();
        let flush = move || {
            for image in images {
                if let Err(error) = image.flush() {
                    image.failures().note("flush before a migration", &error);
                }
            }
            done();
        };
        let begun = std::thread::Builder::new()
            .name("disk-flush".to_owned())
            .spawn(flush);
        if let Err(error) = begun {
            // Whoever waits is told by the sender that was dropped.
            log::warn!("the disks are not flushed before a migration: {error}");
        }
    }

    fn release_disks(&mut self) -> Result<(), String> {
        for (device, host) in self.settings.iter().zip(&mut self.virtio) {
            if let VirtioHost::Disk(disk) = host {
                let released = disk.release();
                released.map_err(|error| format!("device {}: {error}", device.id))?;
            }
        }
        Ok(())
    }

    fn retake_disks(&mut self) -> Result<(), String> {
        for (device, host) in self.settings.iter().zip(&mut self.virtio) {
            if let VirtioHost::Disk(disk) = host {
                let taken = disk.retake();
                taken.map_err(|error| failed(&device.id)(error.into()).in_one_line())?;
            }
        }
        Ok(())
    }

    fn give_up(&mut self) {
        for (host, port) in self.virtio.iter_mut().zip(&self.ports) {
            if let VirtioHost::Disk(disk) = host {
                disk.give_up(port);
            }
        }
    }

    fn discard(&mut self) {
        self.serial.iter().for_each(SerialHost::discard);
        for host in &self.virtio {
            match host {
                VirtioHost::Console(console) => console.discard(),
                VirtioHost::Disk(disk) => disk.discard(),
                VirtioHost::Net(_) | VirtioHost::Entropy(_) | VirtioHost::Vsock(_) => {}
            }
        }
    }

    fn counters(&self) -> BTreeMap<String, Counters> {
        let devices = self.settings.iter().zip(&self.virtio);
        let counted = devices.filter_map(|(device, host)| match host {
            VirtioHost::Disk(disk) => Some((device.id.clone(), disk_counters(&disk.counters()))),
            VirtioHost::Net(tap) => Some((device.id.clone(), net_counters(&tap.counters()))),
            _ => None,
        });
        counted.collect()
    }

    fn places(&self) -> BTreeMap<String, String> {
        let devices = self.settings.iter().zip(&self.virtio);
        let virtio = devices.filter_map(|(device, host)| {
            let place = match host {
                VirtioHost::Net(tap) => tap.name().map(str::to_owned),
                VirtioHost::Console(console) => pty_of(console),
                _ => None,
            };
            Some((device.id.clone(), place?))
        });
        let serial = self.serial.as_ref().and_then(pty_of);
        let serial = serial.map(|path| (SERIAL_NAME.to_owned(), path));
        virtio.chain(serial).collect()
    }
}

fn pty_of(host: &SerialHost) -> Option<String> {
    host.pty_path().map(|path| path.display().to_string())
}

/// As the interface has them; times in microseconds, zero before the first operation.
fn disk_counters(counters: &DiskCounters) -> Counters {
    let DiskCounters { reads, writes } = counters;
    let average =
        |kind: &OperationCounters| kind.total_us.checked_div(kind.count).unwrap_or_default();
    Counters::from([
        ("read_ops", reads.count),
        ("read_bytes", reads.bytes),
        ("read_latency_min", reads.least_us),
        ("read_latency_max", reads.most_us),
        ("read_latency_avg", average(reads)),
        ("write_ops", writes.count),
        ("write_bytes", writes.bytes),
        ("write_latency_min", writes.least_us),
        ("write_latency_max", writes.most_us),
        ("write_latency_avg", average(writes)),
    ])
}

fn net_counters(counters: &TapCounters) -> Counters {
    Counters::from([
        ("rx_frames", counters.rx_frames),
        ("rx_bytes", counters.rx_bytes),
        ("rx_dropped_frames", counters.rx_dropped),
        ("tx_frames", counters.tx_frames),
        ("tx_bytes", counters.tx_bytes),
        ("tx_dropped_frames", counters.tx_dropped),
    ])
}
