//! A network of a test's own: a namespace with a bridge, a tap on it for each host of a pair, and
//! the clients' own address.
//!
//! ```text
//!   clients ── 10.77.0.1 ── bridge ─┬─ tap "side0" ── guest 10.77.0.2 while it runs on side 0
//!                                   └─ tap "side1" ── the same guest after a failover
//! ```
//!
//! The namespace has no name and belongs to the thread that enters it, so whatever that thread
//! starts afterwards, threads and processes alike, is inside too. The kernel takes bridge and taps
//! away when the last of these is gone: nothing is left over even after a SIGKILL.

use std::fs::File;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

use crate::{HarnessError, skip};

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The guest's address and network, as its command line takes them.
pub const GUEST_NETWORK: &str = "10.77.0.2/24";
/// The clients' address and network.
const CLIENTS: &str = "10.77.0.1/24";
/// The guest's hardware address.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x02];
/// The bridge, which is the clients' interface as well.
pub const BRIDGE: &str = "bridge0";
/// Hosts of a pair, each with a tap of its own.
pub const SIDES: usize = 2;

/// The namespace, for as long as the thread that entered it keeps this.
pub struct Network {
    before: File,
    /// The namespace is a thread's, so this may not go to another.
    of_this_thread: PhantomData<*const ()>,
}

/// The tap of one side.
pub fn tap(side: usize) -> String {
    format!("side{side}")
}

impl Network {
    /// Puts this thread, and what it will start, into a new namespace. `None`, and a line that
    /// says why, where the host has none to give.
    ///
    /// # Errors
    /// When the namespace cannot be furnished.
    pub fn enter() -> Result<Option<Self>, HarnessError> {
        match Self::try_enter()? {
            Ok(network) => Ok(Some(network)),
            Err(reason) => {
                skip(&reason);
                Ok(None)
            }
        }
    }

    /// As [`Network::enter`], with the reason why there is none.
    ///
    /// # Errors
    /// When the namespace cannot be furnished.
    pub fn try_enter() -> Result<Result<Self, String>, HarnessError> {
        if !Path::new("/dev/net/tun").exists() {
            return Ok(Err("there is no /dev/net/tun for taps".to_owned()));
        }
        if let Err(error) = Command::new("ip").arg("-V").output() {
            return Ok(Err(format!("there is no ip command: {error}")));
        }
        let own = "/proc/thread-self/ns/net";
        let before = File::open(own).map_err(HarnessError::host(format!("open {own}")))?;
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {}
            Err(error @ (Errno::EPERM | Errno::ENOSYS | Errno::EINVAL)) => {
                return Ok(Err(format!("no network namespace is to be had: {error}")));
            }
            Err(error) => {
                return Err(HarnessError::host("make a network namespace")(error.into()));
            }
        }
        let network = Self {
            before,
            of_this_thread: PhantomData,
        };
        furnish()?;
        Ok(Ok(network))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.before, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot leave the network namespace: {error}");
        }
    }
}

fn furnish() -> Result<(), HarnessError> {
    ip("link set lo up")?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    for side in 0..SIDES {
        let tap = tap(side);
        ip(&format!("tuntap add {tap} mode tap vnet_hdr"))?;
        ip(&format!("link set {tap} master {BRIDGE} up"))?;
    }
    ip(&format!("address add {CLIENTS} dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))
}

/// Runs `ip` with words that are separated by blanks, in the namespace of this thread.
///
/// # Errors
/// When it fails; the error has what it said.
pub fn ip(words: &str) -> Result<(), HarnessError> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(HarnessError::host("run ip"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(HarnessError::Broken(format!(
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
