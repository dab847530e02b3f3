//! The control calls of taps and network interfaces, each with the structure that it takes.
//!
//! Spec: Linux `Documentation/networking/tuntap.rst`; netdevice(7).
//!
//! UNSAFETY: control calls take untyped pointers; each is given the structure it expects here.
#![allow(unsafe_code)]

use std::io::Error;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::raw::{c_int, c_void};

use rustix::ioctl::{IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Bytes of an interface's name, the zero at its end included.
pub const NAME_SIZE: usize = libc::IFNAMSIZ;
/// Bytes of the union in `struct ifreq`.
const DATA_SIZE: usize = 24;
/// The hardware type of Ethernet.
const HARDWARE_ETHERNET: u16 = 1;

const SET_INTERFACE: Opcode = opcode::write::<c_int>(b'T', 202);
const SET_OFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
const SET_HEADER_SIZE: Opcode = opcode::write::<c_int>(b'T', 216);

/// `struct ifreq`: a name and what is said about the interface.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    data: [u8; DATA_SIZE],
}

// The kernel copies as many bytes as its own structures have.
const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
const _: () = assert!(size_of::<Ipv6Request>() == size_of::<libc::in6_ifreq>());

impl InterfaceRequest {
    /// About the interface `name`, of which the first 15 bytes count.
    pub fn new(name: &str) -> Self {
        let mut request = Self {
            name: [0; NAME_SIZE],
            data: [0; DATA_SIZE],
        };
        for (to, from) in request.name[..NAME_SIZE - 1].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        request
    }

    /// The interface's name.
    pub fn name(&self) -> String {
        let bytes = self.name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The flags.
    pub const fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.data[0], self.data[1]])
    }

    /// With these flags.
    pub fn with_flags(mut self, flags: u16) -> Self {
        self.data[..2].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// The number: an index or an MTU.
    pub const fn number(&self) -> i32 {
        let [a, b, c, d, ..] = self.data;
        i32::from_ne_bytes([a, b, c, d])
    }

    /// With this number.
    pub fn with_number(mut self, number: i32) -> Self {
        self.data[..4].copy_from_slice(&number.to_ne_bytes());
        self
    }

    /// The hardware address.
    pub const fn mac(&self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f, ..] = self.data;
        [a, b, c, d, e, f]
    }

    /// With this hardware address.
    pub fn with_mac(mut self, mac: [u8; 6]) -> Self {
        self.data[..2].copy_from_slice(&HARDWARE_ETHERNET.to_ne_bytes());
        self.data[2..8].copy_from_slice(&mac);
        self
    }

    /// With this address: a `struct sockaddr_in` without a port.
    pub fn with_ipv4(mut self, ip: Ipv4Addr) -> Self {
        self.data[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        self.data[4..8].copy_from_slice(&ip.octets());
        self
    }
}

/// `struct in6_ifreq`: an address of an interface.
#[repr(C)]
struct Ipv6Request {
    address: [u8; 16],
    prefix_len: u32,
    index: c_int,
}

/// What is asked of an interface, or told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads the flags.
    Flags,
    /// Sets the flags.
    SetFlags,
    /// Reads the index.
    Index,
    /// Reads the MTU.
    Mtu,
    /// Sets the MTU.
    SetMtu,
    /// Reads the hardware address.
    Mac,
    /// Sets the hardware address.
    SetMac,
    /// Sets the IPv4 address.
    SetIpv4,
    /// Sets the IPv4 mask.
    SetIpv4Mask,
}

impl Call {
    const fn opcode(self) -> Opcode {
        let opcode = match self {
            Self::Flags => libc::SIOCGIFFLAGS,
            Self::SetFlags => libc::SIOCSIFFLAGS,
            Self::Index => libc::SIOCGIFINDEX,
            Self::Mtu => libc::SIOCGIFMTU,
            Self::SetMtu => libc::SIOCSIFMTU,
            Self::Mac => libc::SIOCGIFHWADDR,
            Self::SetMac => libc::SIOCSIFHWADDR,
            Self::SetIpv4 => libc::SIOCSIFADDR,
            Self::SetIpv4Mask => libc::SIOCSIFNETMASK,
        };
        opcode as Opcode
    }
}

struct Exchange<'a> {
    call: Call,
    request: &'a mut InterfaceRequest,
}

// SAFETY: every `Call` takes a pointer to a `struct ifreq`, which `InterfaceRequest` is laid out
// as, and the kernel reads and writes no byte outside it. Nothing is made of the output.
unsafe impl Ioctl for Exchange<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.call.opcode()
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.request).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Makes a call about an interface on any socket; the answer is in `request`.
///
/// # Errors
/// What the host says.
pub fn interface(
    socket: BorrowedFd<'_>,
    call: Call,
    request: &mut InterfaceRequest,
) -> Result<(), Error> {
    // SAFETY: the request lives through the call; see `Exchange`.
    unsafe { ioctl(socket, Exchange { call, request }) }.map_err(Error::from)
}

/// Gives an interface another IPv6 address.
///
/// # Errors
/// What the host says.
pub fn add_ipv6(index: c_int, address: Ipv6Addr, prefix_len: u32) -> Result<(), Error> {
    const ADD: Opcode = libc::SIOCSIFADDR as Opcode;
    let socket = control_socket(AddressFamily::INET6)?;
    let request = Ipv6Request {
        address: address.octets(),
        prefix_len,
        index,
    };
    // SAFETY: on an IPv6 socket, which this is, the call reads a `struct in6_ifreq`, which the
    // request is laid out as.
    unsafe { ioctl(&socket, Setter::<ADD, Ipv6Request>::new(request)) }.map_err(Error::from)
}

/// A socket for calls about interfaces.
///
/// # Errors
/// What the host says.
pub fn control_socket(family: AddressFamily) -> Result<OwnedFd, Error> {
    socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(Error::from)
}

/// Attaches `/dev/net/tun` to the tap in `request`, whose final name is there afterwards.
///
/// # Errors
/// What the host says.
pub fn attach(tun: BorrowedFd<'_>, request: &mut InterfaceRequest) -> Result<(), Error> {
    // SAFETY: the call reads and writes a `struct ifreq`, which lives through it.
    unsafe {
        ioctl(
            tun,
            Updater::<SET_INTERFACE, InterfaceRequest>::new(request),
        )
    }
    .map_err(Error::from)
}

/// Sets how many bytes of `virtio_net_hdr` each frame begins with.
///
/// # Errors
/// What the host says.
pub fn set_header_size(tun: BorrowedFd<'_>, size: c_int) -> Result<(), Error> {
    // SAFETY: the call reads an int.
    unsafe { ioctl(tun, Setter::<SET_HEADER_SIZE, c_int>::new(size)) }.map_err(Error::from)
}

/// Sets which frames may come from the tap with their checksum or segmentation left to do.
///
/// # Errors
/// What the host says; `InvalidInput` for flags that this kernel does not know.
pub fn set_offload(tun: BorrowedFd<'_>, flags: u32) -> Result<(), Error> {
    // SAFETY: the call takes flags by value; unknown ones are refused.
    unsafe { ioctl(tun, IntegerSetter::<SET_OFFLOAD>::new_usize(flags as usize)) }
        .map_err(Error::from)
}
