//! The KVM backend: what this host's `/dev/kvm` can do.

pub mod probe;
