//! Platform-wide settings in a VM's configuration: NUMA, PCI segments, SMBIOS, confinement.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which backend runs the guest's processor. Extension of this project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorChoice {
    /// KVM where it can really run this guest, else software.
    #[default]
    Auto,
    /// Linux KVM.
    Kvm,
    /// The processor in software.
    Software,
}

/// Distance to another NUMA node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaDistance {
    /// The other node.
    pub destination: u32,
    /// Distance, 10 for itself.
    pub distance: u8,
}

/// One NUMA node of the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaConfig {
    /// Its number.
    pub guest_numa_id: u32,
    /// Its processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u32>>,
    /// Distances to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances: Option<Vec<NumaDistance>>,
    /// Its memory zones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_zones: Option<Vec<String>>,
    /// Its PCI segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_segments: Option<Vec<u16>>,
    /// Device that is the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// Shares of the device windows for one PCI segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciSegmentConfig {
    /// Number of the segment.
    #[serde(default)]
    pub pci_segment: u16,
    /// Share of the 32-bit window.
    #[serde(default = "mmio32_aperture_weight")]
    pub mmio32_aperture_weight: u32,
    /// Share of the 64-bit window.
    #[serde(default = "mmio64_aperture_weight")]
    pub mmio64_aperture_weight: u32,
}

impl Default for PciSegmentConfig {
    fn default() -> Self {
        Self {
            pci_segment: 0,
            mmio32_aperture_weight: mmio32_aperture_weight(),
            mmio64_aperture_weight: mmio64_aperture_weight(),
        }
    }
}

/// Platform-wide settings and SMBIOS strings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformConfig {
    /// PCI segments.
    #[serde(default = "num_pci_segments")]
    pub num_pci_segments: u16,
    /// Segments behind the virtual IOMMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu_segments: Option<Vec<u16>>,
    /// Address width of the virtual IOMMU.
    #[serde(default = "iommu_address_width_bits")]
    pub iommu_address_width_bits: u8,
    /// SMBIOS serial number.
    #[serde(skip_serializing_if = "Option::is_none", alias = "serial_number")]
    pub system_serial_number: Option<String>,
    /// SMBIOS UUID.
    #[serde(skip_serializing_if = "Option::is_none", alias = "uuid")]
    pub system_uuid: Option<String>,
    /// SMBIOS OEM strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oem_strings: Option<Vec<String>>,
    /// SMBIOS manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_manufacturer: Option<String>,
    /// SMBIOS product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_product_name: Option<String>,
    /// SMBIOS version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_version: Option<String>,
    /// SMBIOS family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_family: Option<String>,
    /// SMBIOS SKU number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_sku_number: Option<String>,
    /// SMBIOS chassis asset tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_asset_tag: Option<String>,
    /// Use iommufd for VFIO.
    #[serde(default)]
    pub iommufd: bool,
    /// Inherited iommufd descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// Let VFIO devices reach each other.
    #[serde(default = "yes")]
    pub vfio_p2p_dma: bool,
    /// Intel TDX guest.
    #[serde(default)]
    pub tdx: bool,
    /// AMD SEV-SNP guest.
    #[serde(default)]
    pub sev_snp: bool,
    /// Backend that runs the processor; extension of this project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorChoice>,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            num_pci_segments: num_pci_segments(),
            iommu_segments: None,
            iommu_address_width_bits: iommu_address_width_bits(),
            system_serial_number: None,
            system_uuid: None,
            oem_strings: None,
            system_manufacturer: None,
            system_product_name: None,
            system_version: None,
            system_family: None,
            system_sku_number: None,
            chassis_asset_tag: None,
            iommufd: false,
            iommufd_fd: None,
            vfio_p2p_dma: yes(),
            tdx: false,
            sev_snp: false,
            hypervisor: None,
        }
    }
}

/// A software TPM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmConfig {
    /// Socket of swtpm.
    pub socket: PathBuf,
}

/// A path the monitor may use under Landlock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandlockConfig {
    /// The path.
    pub path: PathBuf,
    /// `r`, `w` or both.
    pub access: String,
}

/// A debugger's socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GdbConfig {
    /// Listening Unix socket.
    pub socket: PathBuf,
}

fn mmio32_aperture_weight() -> u32 {
    1
}

fn mmio64_aperture_weight() -> u32 {
    1
}

fn num_pci_segments() -> u16 {
    1
}

fn iommu_address_width_bits() -> u8 {
    64
}

fn yes() -> bool {
    true
}
