//! The frame that tells bridges and switches behind which port a guest is now.
//!
//! A reverse ARP request, because it needs no IP address: bridges learn from the source address of
//! any broadcast, and nobody answers. The guest tells its IP addresses itself, when its driver is
//! asked to.
//!
//! Spec: RFC 903.

use devices::virtio::net::NET_HEADER_SIZE;

/// The shortest Ethernet frame, without its checksum.
const FRAME_SIZE: usize = 60;
const ETHERNET_RARP: u16 = 0x8035;
const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const REQUEST_REVERSE: u16 = 3;

/// An announcement of `mac`, with an empty `virtio_net_hdr_v1` before it.
pub fn announcement(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; NET_HEADER_SIZE];
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend(ETHERNET_RARP.to_be_bytes());
    frame.extend(HARDWARE_ETHERNET.to_be_bytes());
    frame.extend(PROTOCOL_IPV4.to_be_bytes());
    // Lengths of a hardware and a protocol address.
    frame.extend([6, 4]);
    frame.extend(REQUEST_REVERSE.to_be_bytes());
    // The sender and the target are the guest, whose protocol address is not known.
    for _ in 0..2 {
        frame.extend(mac);
        frame.extend([0; 4]);
    }
    frame.resize(NET_HEADER_SIZE + FRAME_SIZE, 0);
    frame
}
