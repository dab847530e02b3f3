//! Why a tap cannot be used.

use std::io::Error;
use std::net::IpAddr;

/// Why a tap cannot be used. The operator or the host is wrong.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error("tap name {0:?} is not 1 to 15 bytes without spaces, '/' and ':'")]
    InvalidName(String),
    /// The host has no driver for taps, or does not let this process at it.
    #[error("cannot open /dev/net/tun for tap {name}")]
    Driver {
        /// The tap.
        name: String,
        /// What the host said.
        source: Error,
    },
    /// Another process has it open.
    #[error("tap {0} is in use")]
    InUse(String),
    /// The process lacks a capability.
    #[error("not permitted to {action} tap {name}: it needs CAP_NET_ADMIN, or a prepared tap")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// The tap.
        name: String,
    },
    /// An interface of another kind.
    #[error("{0} is not a tap, or a tap with several queues")]
    NotATap(String),
    /// Something else went wrong with the interface.
    #[error("cannot {action} tap {name}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// The tap.
        name: String,
        /// What the host said.
        source: Error,
    },
    /// Address and mask do not fit together.
    #[error("mask {mask} does not fit address {ip} of tap {name}")]
    Mask {
        /// The tap.
        name: String,
        /// The address.
        ip: IpAddr,
        /// The mask.
        mask: IpAddr,
    },
    /// No thread or descriptor is to be had.
    #[error("cannot serve tap {name}")]
    Thread {
        /// The tap.
        name: String,
        /// What the host said.
        source: Error,
    },
}
