//! What a machine consists of, and the text by which two hosts find out whether they mean the
//! same one.

use devices::virtio::any::VirtioConfig;
use devices::virtio::block::SECTOR_SIZE;
use ft::event::DeviceId;
use ft::machine::PAGE_SIZE;
use hypervisor::cpu_model::{LEAST_TSC_KHZ, MOST_TSC_KHZ};
use serde::{Deserialize, Serialize};

use super::boot_image::MOST_PAGES;
use super::disks::MOST_DISK_BYTES;

/// The serial port, as a source of inputs and outputs.
pub const SERIAL: DeviceId = DeviceId(1);
/// The debug console at port 0xe9.
pub const DEBUG_CONSOLE: DeviceId = DeviceId(2);
/// The first virtio device; the others follow in the order of the configuration.
const FIRST_VIRTIO: u16 = 16;
/// Most bytes of memory: what the guest's memory can hold at all.
const MOST_MEMORY: u64 = 1 << 44;
/// Most virtio devices of a machine: the slots of a bus without the host bridge.
pub const MOST_VIRTIO: usize = 31;

/// The virtio device with this index, as a source of inputs and outputs.
pub fn virtio_id(index: usize) -> DeviceId {
    assert!(index < MOST_VIRTIO, "virtio device {index}");
    DeviceId(FIRST_VIRTIO + index as u16)
}

/// Index of the virtio device that has this number, if it is one's.
pub fn virtio_index(device: DeviceId) -> Option<usize> {
    let index = usize::from(device.0.checked_sub(FIRST_VIRTIO)?);
    (index < MOST_VIRTIO).then_some(index)
}

/// What becomes of a disk's contents when its machine is protected or recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMode {
    /// Each side has contents of its own, which are a part of the machine's state: the clone copies
    /// them, and later writes are executed again. The log has completions only.
    Replicated,
    /// The contents are not the machine's: only the live side works on them. What a read finds is
    /// in the log, and what changes them is an output.
    Outside,
}

/// A virtio device of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioSpec {
    /// What the guest sees.
    pub config: VirtioConfig,
    /// For a disk, whose its contents are; `Outside` for all others.
    pub disk: DiskMode,
}

impl VirtioSpec {
    /// Bytes of the contents that are a part of the machine's state; as many as there can be for
    /// a disk that [`MachineConfig::check`] refuses.
    pub fn replicated_bytes(&self) -> Option<u64> {
        match (&self.config, self.disk) {
            (VirtioConfig::Block(block), DiskMode::Replicated) => {
                Some(block.sectors.saturating_mul(SECTOR_SIZE))
            }
            _ => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        match &self.config {
            VirtioConfig::Block(block) if !block.is_valid() => {
                Err(format!("a disk has blocks of {} bytes", block.block_size))
            }
            VirtioConfig::Block(block) => {
                let most = match self.disk {
                    DiskMode::Replicated => MOST_DISK_BYTES,
                    DiskMode::Outside => i64::MAX as u64,
                };
                if block.sectors > most / SECTOR_SIZE {
                    let sectors = block.sectors;
                    return Err(format!(
                        "a disk has {sectors} sectors, {most} bytes can be had"
                    ));
                }
                Ok(())
            }
            VirtioConfig::Net(net) if !net.is_valid() => {
                Err(format!("a network card has the MTU {:?}", net.mtu))
            }
            _ => Ok(()),
        }
    }
}

/// What a machine consists of. Equal on both sides of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Bytes of memory.
    pub memory_size: u64,
    /// Whether there is a serial port.
    pub serial: bool,
    /// Seconds since 1970 that the guest's clock shows when the machine is made.
    pub start_seconds: u64,
    /// Pages that the boot files take.
    pub boot_pages: u64,
    /// Frequency of the processor's time-stamp counter, in kHz.
    pub tsc_khz: u32,
    /// Virtio devices, in slots 1 and up of the PCI bus. Without any there is no bus.
    pub virtio: Vec<VirtioSpec>,
}

/// Why there can be no such machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the machine cannot be made: {0}")]
pub struct MachineConfigError(String);

impl MachineConfig {
    /// Refuses what no machine can consist of, before anything is made of it. Whether the host has
    /// as much memory is another question.
    ///
    /// # Errors
    /// The first thing that cannot be had.
    pub fn check(&self) -> Result<(), MachineConfigError> {
        let refused = |text: String| Err(MachineConfigError(text));
        let size = self.memory_size;
        if size == 0 || !size.is_multiple_of(PAGE_SIZE as u64) || size > MOST_MEMORY {
            return refused(format!("it has {size} bytes of memory"));
        }
        if self.boot_pages > MOST_PAGES {
            let count = self.boot_pages;
            return refused(format!(
                "its boot files have {count} pages, {MOST_PAGES} can be had"
            ));
        }
        if !(LEAST_TSC_KHZ..=MOST_TSC_KHZ).contains(&self.tsc_khz) {
            let khz = self.tsc_khz;
            return refused(format!("its time-stamp counter runs at {khz} kHz"));
        }
        if self.virtio.len() > MOST_VIRTIO {
            let count = self.virtio.len();
            return refused(format!(
                "it has {count} virtio devices, {MOST_VIRTIO} can be had"
            ));
        }
        let mut devices = self.virtio.iter();
        devices
            .try_for_each(VirtioSpec::check)
            .map_err(MachineConfigError)
    }

    /// The words of a fingerprint that tell of this configuration. The virtio devices are their
    /// encoding in hexadecimal, of two digits for none.
    pub fn fingerprint(&self) -> String {
        let devices = postcard::to_allocvec(&self.virtio)
            .expect("configurations have no unsized sequences, and memory is the writer");
        let devices: String = devices.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "memory {} serial {} boot-pages {} tsc-khz {} virtio {devices}",
            self.memory_size, self.serial, self.boot_pages, self.tsc_khz,
        )
    }

    /// The configuration that a fingerprint tells of, if this program can make such a machine.
    pub fn from_fingerprint(fingerprint: &str) -> Option<Self> {
        let word = |name: &str| {
            let mut words = fingerprint.split(' ').skip_while(|word| *word != name);
            words.nth(1)
        };
        let virtio: Vec<VirtioSpec> = postcard::from_bytes(&from_hex(word("virtio")?)?).ok()?;
        let config = Self {
            memory_size: word("memory")?.parse().ok()?,
            serial: word("serial")?.parse().ok()?,
            start_seconds: 0,
            boot_pages: word("boot-pages")?.parse().ok()?,
            tsc_khz: word("tsc-khz")?.parse().ok()?,
            virtio,
        };
        config.check().is_ok().then_some(config)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{BuildError, DiskStores, VirtualMachine};
    use devices::virtio::block::BlockConfig;
    use devices::virtio::net::NetConfig;
    use hypervisor::MemoryKind;
    use hypervisor::software::SoftwareHypervisor;

    #[test]
    fn a_fingerprint_tells_what_the_machine_consists_of() {
        let block = BlockConfig {
            sectors: 1 << 20,
            read_only: false,
            block_size: 512,
            serial: BlockConfig::serial_of("disk"),
        };
        let disk = VirtioSpec {
            config: VirtioConfig::Block(block),
            disk: DiskMode::Replicated,
        };
        let entropy = VirtioSpec {
            config: VirtioConfig::Entropy,
            disk: DiskMode::Outside,
        };
        for virtio in [vec![], vec![entropy, disk]] {
            let config = MachineConfig {
                memory_size: 1 << 28,
                serial: true,
                start_seconds: 0,
                boot_pages: 9,
                tsc_khz: 2_399_998,
                virtio,
            };
            let text = format!("machine 2 {}", config.fingerprint());
            assert_eq!(MachineConfig::from_fingerprint(&text), Some(config));
        }
        assert_eq!(disk.replicated_bytes(), Some(512 << 20));
        assert_eq!(entropy.replicated_bytes(), None);
    }

    #[test]
    fn machines_that_cannot_be_are_refused_before_anything_is_made_of_them() {
        let block = |sectors, block_size, disk| VirtioSpec {
            config: VirtioConfig::Block(BlockConfig {
                sectors,
                read_only: false,
                block_size,
                serial: BlockConfig::serial_of("disk"),
            }),
            disk,
        };
        let net = VirtioSpec {
            config: VirtioConfig::Net(NetConfig {
                mac: [2; 6],
                mtu: Some(67),
                offload: true,
                udp_fragmentation: false,
            }),
            disk: DiskMode::Outside,
        };
        let good = MachineConfig {
            memory_size: 1 << 20,
            serial: true,
            start_seconds: 0,
            boot_pages: 0,
            tsc_khz: 1_000_000,
            virtio: vec![block(8, 512, DiskMode::Replicated)],
        };
        good.check().unwrap();
        let with = |change: &dyn Fn(&mut MachineConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config
        };
        let devices = |spec: VirtioSpec| with(&|config| config.virtio = vec![spec]);
        let (own, shared) = (DiskMode::Replicated, DiskMode::Outside);
        for (config, text) in [
            (with(&|config| config.memory_size = 0), "memory"),
            (with(&|config| config.memory_size = 5000), "memory"),
            (with(&|config| config.memory_size = !4095), "memory"),
            (
                with(&|config| config.boot_pages = MOST_PAGES + 1),
                "boot files",
            ),
            (with(&|config| config.boot_pages = u64::MAX), "boot files"),
            (with(&|config| config.tsc_khz = 0), "0 kHz"),
            (with(&|config| config.tsc_khz = u32::MAX), "kHz"),
            (
                with(&|config| config.virtio = vec![net; 32]),
                "virtio devices",
            ),
            (devices(block(u64::MAX, 512, own)), "sectors"),
            (
                devices(block((MOST_DISK_BYTES >> 9) + 1, 512, own)),
                "sectors",
            ),
            (devices(block(u64::MAX, 512, shared)), "sectors"),
            (devices(block(8, 3, shared)), "blocks of 3 bytes"),
            (devices(net), "MTU"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            // Nor does anything abort on the way there.
            let made = VirtualMachine::blank(
                config,
                MemoryKind::Private,
                DiskStores::new(),
                &SoftwareHypervisor,
            );
            assert!(matches!(made, Err(BuildError::Config(_))), "{text}");
        }
    }

    #[test]
    fn damaged_fingerprints_make_no_machine() {
        let good = "memory 4096 serial true boot-pages 0 tsc-khz 1000000 virtio 00";
        assert!(MachineConfig::from_fingerprint(good).is_some());
        for (from, to) in [
            ("4096", "x"),
            ("virtio 00", "virtio 0"),
            ("virtio 00", "virtio 7f"),
            ("boot-pages 0", "boot-pages 300000"),
            ("tsc-khz 1000000", "tsc-khz 0"),
            (" tsc-khz 1000000", ""),
            ("memory 4096", "memory 18446744073709547520"),
        ] {
            let bad = good.replace(from, to);
            assert!(MachineConfig::from_fingerprint(&bad).is_none(), "{bad}");
        }
    }
}
