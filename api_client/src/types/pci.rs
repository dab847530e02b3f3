//! Fields that every PCI device's object has.
//!
//! They are members of the object itself. Flattening a shared structure into it would give up
//! the refusal of unknown fields, so a macro writes them out instead.

/// Defines a configuration object with the common PCI fields before its own.
macro_rules! pci_device {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// Name of the device, unique in the VM; generated if not given.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub id: Option<String>,
            /// Whether it is behind the virtual IOMMU.
            #[serde(default, skip_serializing_if = "crate::types::pci::is_false")]
            pub iommu: bool,
            /// PCI segment it is on.
            #[serde(default)]
            pub pci_segment: u16,
            /// Slot on the segment's bus; the first free one if not given.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub pci_device_id: Option<u8>,
            $($(#[$field_meta])* pub $field: $type,)*
        }
    };
}

pub(super) use pci_device;

/// For members that are left out when false.
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}
