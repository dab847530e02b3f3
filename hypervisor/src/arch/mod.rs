//! Facts about processor architectures, without behaviour.

pub mod x86_64;
