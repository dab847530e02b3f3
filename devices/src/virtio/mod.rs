//! Virtio devices behind PCI: queues, transport, and the devices themselves.
//!
//! What leaves a device is a [`event::VirtioEvent`], collected by the board; what enters is an
//! [`input::VirtioInput`], given at a logical time. Both are data that a log can hold.
//!
//! Modern devices only (`VIRTIO_F_VERSION_1`), split rings, with indirect descriptors and event
//! indices. The guest's mistakes are [`fault::Fault`]s: the device says `NEEDS_RESET` and does
//! nothing more until it is reset.
//!
//! Spec: virtio 1.2 (OASIS CS01).

pub mod any;
pub mod backlog;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod entropy;
pub mod event;
pub mod fault;
pub mod input;
pub mod net;
pub mod payload;
pub mod queue;
pub mod transport;
pub mod vsock;
