//! Real taps in a network namespace of their own. They need CAP_NET_ADMIN and `/dev/net/tun`.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;

const MAC: [u8; 6] = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc];
const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 249, 1);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 249, 2);
const PATIENCE: Duration = Duration::from_secs(5);
/// What the driver of a usual Linux guest negotiates of checksums and segments.
const FEATURES: u64 = 0b1_1000_0010;

/// Moves this thread, and those it starts, into a network namespace of its own. Says whether it is
/// there.
fn isolated() -> bool {
    if !Path::new("/dev/net/tun").exists() {
        crate::skip("there is no /dev/net/tun");
        return false;
    }
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => true,
        Err(error) => {
            crate::skip(format!("no network namespace is to be had: {error}"));
            false
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).status();
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            crate::skip(format!("no ip command: {error}"));
            false
        }
    }
}

fn named(name: &str) -> TapTarget {
    TapTarget {
        name: Some(name.to_owned()),
        ..TapTarget::default()
    }
}

fn open(target: TapTarget, features: Option<u64>) -> (TapHost, Receiver<VirtioInput>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let offer: Offer = Arc::new(move |input| {
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(input).is_ok()
    });
    let mut host = TapHost::new(target, offer);
    host.activate(MAC, features).unwrap();
    (host, receiver)
}

fn failure(target: TapTarget) -> TapError {
    let mut host = TapHost::new(target, Arc::new(|_| true));
    let error = host.activate(MAC, None).unwrap_err();
    assert_eq!(host.name(), None);
    error
}

/// The next frame of an Ethernet type, without its header.
fn next_frame(inputs: &Receiver<VirtioInput>, kind: u16) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let input = inputs.recv_timeout(deadline - Instant::now()).unwrap();
        if let VirtioInput::NetReceive(frame) = input
            && frame[24..26] == kind.to_be_bytes()
        {
            return frame[NET_HEADER_SIZE..].to_vec();
        }
    }
}

/// A frame of the guest, with an empty header.
fn guest_frame(to: &[u8], kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let head: [&[u8]; 4] = [&[0; NET_HEADER_SIZE], to, &MAC, &kind.to_be_bytes()];
    [head.concat(), parts.concat()].concat()
}

#[test]
fn frames_pass_in_both_directions() {
    if !isolated() {
        return;
    }
    let target = TapTarget {
        ip: Some(HOST_IP.into()),
        mask: Some("255.255.255.0".parse().unwrap()),
        host_mac: Some([0x02, 0, 0, 0, 0, 7]),
        mtu: Some(1400),
        ..TapTarget::default()
    };
    let (mut host, inputs) = open(target, None);
    let name = host.name().unwrap().to_owned();
    assert!(name.starts_with("vmtap"), "{name}");
    host.driver_ready(FEATURES);

    let socket = UdpSocket::bind((HOST_IP, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hello guest", (GUEST_IP, 7777)).unwrap();
    let arp = next_frame(&inputs, 0x0806);
    assert_eq!(arp[6..12], [0x02, 0, 0, 0, 0, 7], "the host's address");
    assert_eq!(arp[38..42], GUEST_IP.octets());

    let answer: [&[u8]; 6] = [
        &[0, 1, 8, 0, 6, 4, 0, 2],
        &MAC,
        &GUEST_IP.octets(),
        &arp[6..12],
        &HOST_IP.octets(),
        &[0; 18],
    ];
    host.write(&guest_frame(&arp[6..12], 0x0806, &answer));
    let datagram = next_frame(&inputs, 0x0800);
    assert!(datagram.ends_with(b"hello guest"), "{datagram:?}");

    // Back: addresses and ports swapped, which leaves both checksums as they were.
    let [ip, source, target, ports, rest] = [
        &datagram[14..26],
        &datagram[26..30],
        &datagram[30..34],
        &datagram[34..38],
        &datagram[38..],
    ];
    let (from, to) = ports.split_at(2);
    let mut frame = guest_frame(&arp[6..12], 0x0800, &[ip, target, source, to, from, rest]);
    // The kernel left the datagram's checksum to us, which FEATURES allows: 0 stands for none.
    frame[NET_HEADER_SIZE + 40..NET_HEADER_SIZE + 42].fill(0);
    host.write(&frame);
    let mut back = [0; 100];
    let (count, peer) = socket.recv_from(&mut back).unwrap();
    assert_eq!(
        (&back[..count], peer),
        (&b"hello guest"[..], (GUEST_IP, 7777).into())
    );

    let counters = host.counters();
    assert_eq!((counters.tx_frames, counters.tx_dropped), (2, 0));
    assert_eq!(counters.tx_bytes as usize, 60 + datagram.len());
    // The thread counts a frame after it has offered it.
    let deadline = Instant::now() + PATIENCE;
    while host.counters().rx_frames < 2 {
        assert!(Instant::now() < deadline, "{counters:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn driver_that_is_not_ready_gets_nothing_and_a_full_queue_loses_frames() {
    if !isolated() {
        return;
    }
    let target = TapTarget {
        ip: Some(HOST_IP.into()),
        mask: Some("255.255.255.0".parse().unwrap()),
        ..TapTarget::default()
    };
    let offer: Offer = Arc::new(|input| !matches!(input, VirtioInput::NetReceive(_)));
    let mut host = TapHost::new(target, offer);
    host.activate(MAC, None).unwrap();
    let socket = UdpSocket::bind((HOST_IP, 0)).unwrap();
    let lost = |host: &TapHost, more_than: u64| {
        let deadline = Instant::now() + PATIENCE;
        socket.send_to(b"x", (GUEST_IP, 7)).unwrap();
        while host.counters().rx_dropped <= more_than {
            assert!(Instant::now() < deadline, "{:?}", host.counters());
            std::thread::sleep(Duration::from_millis(10));
        }
        host.counters().rx_dropped
    };
    let before = lost(&host, 0);
    host.driver_ready(0);
    lost(&host, before);
    host.driver_gone();
    assert_eq!(host.counters().rx_frames, 0);
}

#[test]
fn malformed_and_unwanted_frames_of_the_guest_are_counted() {
    if !isolated() {
        return;
    }
    let (host, _inputs) = open(named("odd0"), None);
    let mut odd = guest_frame(&[0xff; 6], 0x0800, &[&[0; 46]]);
    // A type of segment that nobody knows.
    odd[1] = 0x7f;
    for frame in [&odd[..], &[0; 5], &[]] {
        host.write(frame);
    }
    assert_eq!(host.counters().tx_dropped, 3);
}

#[test]
fn tap_in_use_is_named_and_is_free_once_dropped() {
    if !isolated() {
        return;
    }
    let (first, _inputs) = open(named("busy0"), None);
    let error = failure(named("busy0"));
    assert_eq!(error.to_string(), "tap busy0 is in use");
    let mut next = first.successor();
    let before = Instant::now();
    drop(first);
    assert!(before.elapsed() < Duration::from_millis(100));
    next.activate(MAC, None).unwrap();
    assert_eq!(next.name(), Some("busy0"));
}

#[test]
fn interfaces_of_other_kinds_and_impossible_names_are_refused() {
    if !isolated() {
        return;
    }
    let error = failure(named("lo"));
    assert!(matches!(error, TapError::NotATap(_)), "{error}");
    let error = failure(named("much-too-long-name"));
    assert!(error.to_string().contains("much-too-long-name"), "{error}");
    let multicast = TapTarget {
        host_mac: Some([1; 6]),
        ..named("odd1")
    };
    let error = failure(multicast);
    assert!(
        error.to_string().contains("MAC address of tap odd1"),
        "{error}"
    );
}

#[test]
fn without_the_capability_only_a_prepared_tap_can_be_used() {
    if !isolated() || !ip(&["tuntap", "add", "ready0", "mode", "tap"]) {
        return;
    }
    assert!(ip(&["link", "set", "ready0", "up"]));
    assert!(ip(&["tuntap", "add", "down0", "mode", "tap"]));
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_ADMIN);
    set_capabilities(None, sets).unwrap();
    let error = failure(named("new0")).to_string();
    assert!(
        error.contains("open tap new0: it needs CAP_NET_ADMIN"),
        "{error}"
    );
    let error = failure(named("down0")).to_string();
    assert!(
        error.contains("bring up tap down0: it needs CAP_NET_ADMIN"),
        "{error}"
    );
    // Nobody owns it, and it is up: every process may attach.
    let (host, _inputs) = open(named("ready0"), Some(FEATURES));
    assert_eq!(host.name(), Some("ready0"));
}

#[test]
fn announcement_reaches_the_other_ports_of_a_bridge() {
    if !isolated() || !ip(&["link", "add", "bridge0", "type", "bridge"]) {
        return;
    }
    assert!(ip(&["link", "set", "bridge0", "up"]));
    let (first, inputs) = open(named("port0"), Some(FEATURES));
    assert_eq!(
        inputs.recv_timeout(PATIENCE).unwrap(),
        VirtioInput::NetLink { up: true }
    );
    let (second, _inputs) = open(named("port1"), None);
    for port in ["port0", "port1"] {
        assert!(ip(&["link", "set", port, "master", "bridge0"]));
    }
    second.announce(MAC);
    let frame = next_frame(&inputs, 0x8035);
    assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &MAC[..]));
    assert_eq!(frame.len(), 60);
    assert_eq!(second.counters().tx_frames, 1);
    drop(first);
}

#[test]
fn tap_that_is_taken_away_takes_the_link_down() {
    if !isolated() {
        return;
    }
    let (host, inputs) = open(named("gone0"), None);
    if !ip(&["link", "del", "gone0"]) {
        return;
    }
    assert_eq!(
        inputs.recv_timeout(PATIENCE).unwrap(),
        VirtioInput::NetLink { up: false }
    );
    host.announce(MAC);
    assert_eq!(host.counters().tx_dropped, 1);
}

#[test]
fn ipv6_address_is_set_and_may_be_there_already() {
    if !isolated() {
        return;
    }
    if !Path::new("/proc/net/if_inet6").exists() {
        crate::skip("the host has no IPv6");
        return;
    }
    let target = TapTarget {
        ip: Some("fd00:7::1".parse().unwrap()),
        mask: Some("ffff:ffff:ffff:ffff::".parse().unwrap()),
        ..named("six0")
    };
    let (host, _inputs) = open(target.clone(), None);
    let found = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
    let line = found.lines().find(|line| line.starts_with("fd000007"));
    let fields: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!((fields[2], fields[5]), ("40", "six0"), "prefix, interface");
    let running = host.running.as_ref().unwrap();
    running.shared.device.set_up(&target, Some(64)).unwrap();
}
