//! Opening a tap, made or found, and setting it up.
//!
//! What is set already is left alone, so that a process without capabilities can use a tap that
//! an operator prepared for its user.
//!
//! Spec: Linux `Documentation/networking/tuntap.rst`.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use devices::virtio::net::{
    FEATURE_GUEST_CSUM, FEATURE_GUEST_TSO4, FEATURE_GUEST_TSO6, FEATURE_GUEST_UFO, NET_HEADER_SIZE,
};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::TapTarget;
use super::control::{self, Call, InterfaceRequest, NAME_SIZE};
use super::error::TapError;

const DRIVER: &str = "/dev/net/tun";
/// What the kernel makes a name of when none is given.
const NAME_TEMPLATE: &str = "vmtap%d";
const TAP_FLAGS: u16 = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
const FLAG_UP: u16 = libc::IFF_UP as u16;

/// How long a tap may stay in use: the kernel may still be closing what a primary left that was
/// killed a moment ago.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);
const BUSY_INTERVAL: Duration = Duration::from_millis(5);

/// An open tap. Reads and writes do not wait; each is one frame with its `virtio_net_hdr_v1`.
#[derive(Debug)]
pub struct TapDevice {
    file: File,
    name: String,
}

impl TapDevice {
    /// Opens and sets up a tap.
    ///
    /// # Errors
    /// When the target makes no sense, or the host refuses.
    pub fn open(target: &TapTarget) -> Result<Self, TapError> {
        let name = target.name.as_deref().unwrap_or_default();
        let name = if name.is_empty() { NAME_TEMPLATE } else { name };
        check_name(name)?;
        let prefix_len = check_mask(name, target)?;
        let device = Self::attach(name)?;
        let size = NET_HEADER_SIZE as i32;
        control::set_header_size(device.file.as_fd(), size)
            .map_err(|error| device.failed("set the header size of", error))?;
        device.set_up(target, prefix_len)?;
        Ok(device)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Lets frames come with their checksum or segmentation left to the guest, as far as its
    /// driver agreed to that.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_offload(&self, features: u64) -> Result<(), Error> {
        let flags = offload_flags(features);
        match control::set_offload(self.file.as_fd(), flags) {
            // Some kernels have no UDP fragmentation; they send such frames as fragments.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                control::set_offload(self.file.as_fd(), flags & !libc::TUN_F_UFO)
            }
            done => done,
        }
    }

    fn attach(name: &str) -> Result<Self, TapError> {
        let name = || name.to_owned();
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(DRIVER)
            .map_err(|source| TapError::Driver {
                name: name(),
                source,
            })?;
        let deadline = Instant::now() + BUSY_TIMEOUT;
        let mut request = InterfaceRequest::new(&name()).with_flags(TAP_FLAGS);
        while let Err(error) = control::attach(file.as_fd(), &mut request) {
            match Errno::from_io_error(&error) {
                Some(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(BUSY_INTERVAL);
                }
                Some(Errno::BUSY) => return Err(TapError::InUse(name())),
                Some(Errno::INVAL) => return Err(TapError::NotATap(name())),
                _ => return Err(failed("open", &name(), error)),
            }
        }
        let name = request.name();
        Ok(Self { file, name })
    }

    pub(super) fn set_up(
        &self,
        target: &TapTarget,
        prefix_len: Option<u32>,
    ) -> Result<(), TapError> {
        let socket = control::control_socket(AddressFamily::INET)
            .map_err(|error| self.failed("set up", error))?;
        let request = InterfaceRequest::new(&self.name);
        let call = |action, call, mut request: InterfaceRequest| {
            control::interface(socket.as_fd(), call, &mut request)
                .map_err(|error| self.failed(action, error))?;
            Ok::<_, TapError>(request)
        };
        if let Some(mac) = target.host_mac
            && call("read the MAC address of", Call::Mac, request)?.mac() != mac
        {
            call(
                "set the MAC address of",
                Call::SetMac,
                request.with_mac(mac),
            )?;
        }
        if let Some(mtu) = target.mtu.map(i32::from)
            && call("read the MTU of", Call::Mtu, request)?.number() != mtu
        {
            call("set the MTU of", Call::SetMtu, request.with_number(mtu))?;
        }
        match target.ip {
            Some(IpAddr::V4(ip)) => {
                call("set the address of", Call::SetIpv4, request.with_ipv4(ip))?;
                if let Some(IpAddr::V4(mask)) = target.mask {
                    let request = request.with_ipv4(mask);
                    call("set the mask of", Call::SetIpv4Mask, request)?;
                }
            }
            Some(IpAddr::V6(ip)) => {
                let index = call("read the index of", Call::Index, request)?.number();
                match control::add_ipv6(index, ip, prefix_len.unwrap_or(128)) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(self.failed("set the address of", error));
                    }
                    _ => {}
                }
            }
            None => {}
        }
        let flags = call("read the flags of", Call::Flags, request)?.flags();
        if flags & FLAG_UP == 0 {
            let request = request.with_flags(flags | FLAG_UP);
            call("bring up", Call::SetFlags, request)?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, source: Error) -> TapError {
        failed(action, &self.name, source)
    }
}

fn failed(action: &'static str, name: &str, source: Error) -> TapError {
    let name = name.to_owned();
    if source.kind() == ErrorKind::PermissionDenied {
        TapError::NotPermitted { action, name }
    } else {
        TapError::Host {
            action,
            name,
            source,
        }
    }
}

/// What the driver agreed to, in the tap's words. Everything needs checksums.
fn offload_flags(features: u64) -> u32 {
    if features & FEATURE_GUEST_CSUM == 0 {
        return 0;
    }
    let pairs = [
        (FEATURE_GUEST_TSO4, libc::TUN_F_TSO4),
        (FEATURE_GUEST_TSO6, libc::TUN_F_TSO6),
        (FEATURE_GUEST_UFO, libc::TUN_F_UFO),
    ];
    let segments = pairs
        .iter()
        .filter(|(feature, _)| features & feature != 0)
        .fold(0, |flags, (_, flag)| flags | flag);
    libc::TUN_F_CSUM | segments
}

/// What the kernel takes as a name; it would cut a longer one. `%d` stands for a free number.
fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, 0 | b'/' | b':');
    let numbers = name.matches('%').count();
    let valid = name.len() < NAME_SIZE
        && !matches!(name, "." | "..")
        && !name.bytes().any(bad)
        && (numbers == 0 || numbers == 1 && name.contains("%d"));
    if valid {
        Ok(())
    } else {
        Err(TapError::InvalidName(name.to_owned()))
    }
}

/// Checks that a mask is one and fits its address; the length of the prefix of an IPv6 address.
fn check_mask(name: &str, target: &TapTarget) -> Result<Option<u32>, TapError> {
    let (Some(ip), Some(mask)) = (target.ip, target.mask) else {
        return Ok(None);
    };
    let prefix_len = match (ip, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => {
            let bits = mask.to_bits();
            (bits.leading_ones() == bits.count_ones()).then_some(bits.count_ones())
        }
        (IpAddr::V6(_), IpAddr::V6(mask)) => prefix_len(mask),
        _ => None,
    };
    match prefix_len {
        Some(len) => Ok(Some(len)),
        None => Err(TapError::Mask {
            name: name.to_owned(),
            ip,
            mask,
        }),
    }
}

fn prefix_len(mask: Ipv6Addr) -> Option<u32> {
    let bits = mask.to_bits();
    (bits.leading_ones() == bits.count_ones()).then_some(bits.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in [
            "sixteen-bytes-xx",
            "a b",
            "a/b",
            "a:b",
            ".",
            "..",
            "a%s",
            "%d%d",
            "a\0b",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["tap0", "fifteen-bytes-x", "vmtap%d", "tap.7"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn masks_are_checked_against_their_address() {
        let table = [
            ("10.0.0.1", "255.255.255.0", Some(24)),
            ("10.0.0.1", "255.0.255.0", None),
            ("10.0.0.1", "ffff::", None),
            ("fd00::1", "ffff:ffff:ffff:ffff::", Some(64)),
            ("fd00::1", "ffff::ffff", None),
        ];
        for (ip, mask, expected) in table {
            let target = TapTarget {
                ip: Some(ip.parse().unwrap()),
                mask: Some(mask.parse().unwrap()),
                ..TapTarget::default()
            };
            let found = check_mask("tap0", &target);
            assert_eq!(found.ok().flatten(), expected, "{ip} {mask}");
        }
    }

    #[test]
    fn offloads_follow_the_features() {
        // Linux `if_tun.h`: CSUM 1, TSO4 2, TSO6 4, UFO 16.
        let all = FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6;
        assert_eq!(offload_flags(0), 0);
        assert_eq!(offload_flags(FEATURE_GUEST_TSO4), 0);
        assert_eq!(offload_flags(FEATURE_GUEST_CSUM), 1);
        assert_eq!(offload_flags(all), 7);
        assert_eq!(offload_flags(all | FEATURE_GUEST_UFO), 23);
    }
}
