//! What a machine consists of, and the text by which two hosts find out whether they mean the
//! same one.

use devices::virtio::any::VirtioConfig;
use ft::event::DeviceId;
use serde::{Deserialize, Serialize};

use super::boot_image::MOST_PAGES;

/// The serial port, as a source of inputs and outputs.
pub const SERIAL: DeviceId = DeviceId(1);
/// The debug console at port 0xe9.
pub const DEBUG_CONSOLE: DeviceId = DeviceId(2);
/// The first virtio device; the others follow in the order of the configuration.
const FIRST_VIRTIO: u16 = 16;
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
    /// Bytes of the contents that are a part of the machine's state.
    pub fn replicated_bytes(&self) -> Option<u64> {
        match (&self.config, self.disk) {
            (VirtioConfig::Block(block), DiskMode::Replicated) => Some(block.sectors * 512),
            _ => None,
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
    /// Virtio devices, in slots 1 and up of the PCI bus. Without any there is no bus.
    pub virtio: Vec<VirtioSpec>,
}

impl MachineConfig {
    /// The words of a fingerprint that tell of this configuration. The virtio devices are their
    /// encoding in hexadecimal, of two digits for none.
    pub fn fingerprint(&self) -> String {
        let devices = postcard::to_allocvec(&self.virtio)
            .expect("configurations have no unsized sequences, and memory is the writer");
        let devices: String = devices.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "memory {} serial {} boot-pages {} virtio {devices}",
            self.memory_size, self.serial, self.boot_pages,
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
            boot_pages: word("boot-pages")?
                .parse()
                .ok()
                .filter(|&n| n <= MOST_PAGES)?,
            virtio,
        };
        (config.virtio.len() <= MOST_VIRTIO).then_some(config)
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
    use devices::virtio::block::BlockConfig;

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
                virtio,
            };
            let text = format!("machine 2 {}", config.fingerprint());
            assert_eq!(MachineConfig::from_fingerprint(&text), Some(config));
        }
        assert_eq!(disk.replicated_bytes(), Some(512 << 20));
        assert_eq!(entropy.replicated_bytes(), None);
    }

    #[test]
    fn damaged_fingerprints_make_no_machine() {
        let good = "memory 4096 serial true boot-pages 0 virtio 00";
        assert!(MachineConfig::from_fingerprint(good).is_some());
        for (from, to) in [
            ("4096", "x"),
            ("virtio 00", "virtio 0"),
            ("virtio 00", "virtio 7f"),
        ] {
            let bad = good.replace(from, to);
            assert!(MachineConfig::from_fingerprint(&bad).is_none(), "{bad}");
        }
    }
}
