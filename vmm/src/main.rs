//! The `cloud-hypervisor` command.

fn main() {}
