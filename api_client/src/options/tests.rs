//! Tests of the option grammar.

use serde_json::json;

use super::*;
use crate::types::devices::{DiskConfig, FsConfig, NetConfig};
use crate::types::requests::SendMigrationConfig;

const KEYS: &[Key] = &[
    Key::new("size", Kind::Bytes),
    Key::new("shared", Kind::Toggle),
    Key::new("name", Kind::Text),
    Key::new("cpus", Kind::Integers(255)),
    Key::new("names", Kind::Texts),
    Key::new(
        "map",
        Kind::Pairs(("vcpu", Item::Number(9)), ("host_cpus", Item::Integers)),
    ),
    Key::new(
        "mode",
        Kind::Choice(&[("virtio-mem", "VirtioMem"), ("acpi", "Acpi")]),
    ),
    Key::new("lock", Kind::ExactChoice(&[("full", "Full")])),
    Key::new("topology", Kind::Topology),
    Key::new("features", Kind::Switches(&["amx"])),
    Key::renamed("bw_size", "limit.bandwidth.size", Kind::Number(1000)),
    Key::new("type", Kind::Named(&[("net", 1), ("iommu", 0)])),
    Key::new("off", Kind::Flag),
];

#[test]
fn good_strings_become_json_members() {
    let table = [
        ("", json!({})),
        ("size=1G", json!({"size": 1_u64 << 30})),
        ("size=3K,shared=On", json!({"size": 3072, "shared": true})),
        ("shared=FALSE", json!({"shared": false})),
        ("name=\"a,b \"\"c\"\"\"", json!({"name": "a,b \"c\""})),
        ("name=a=b", json!({"name": "a=b"})),
        ("name=", json!({})),
        ("name=a,name=b", json!({"name": "b"})),
        ("bw_size=5,bw_size=", json!({})),
        ("cpus=[0,2-4]", json!({"cpus": [0, 2, 3, 4]})),
        ("cpus=7", json!({"cpus": [7]})),
        ("names=[a,\"b,c\"]", json!({"names": ["a", "b,c"]})),
        (
            "map=[1@[1-2],2@[0]]",
            json!({"map": [{"vcpu": 1, "host_cpus": [1, 2]}, {"vcpu": 2, "host_cpus": [0]}]}),
        ),
        ("mode=Virtio-Mem", json!({"mode": "VirtioMem"})),
        ("lock=full", json!({"lock": "Full"})),
        (
            "topology=2:4:1:1",
            json!({"topology": {"threads_per_core": 2, "cores_per_die": 4,
                "dies_per_package": 1, "packages": 1}}),
        ),
        ("features=[amx]", json!({"features": {"amx": true}})),
        ("bw_size=7", json!({"limit": {"bandwidth": {"size": 7}}})),
        ("type=NET", json!({"type": 1})),
        ("type=41", json!({"type": 41})),
        ("off", json!({"off": true})),
    ];
    for (input, expected) in table {
        assert_eq!(
            parse(input, KEYS).map(Value::Object),
            Ok(expected),
            "{input}"
        );
    }
}

#[test]
fn bad_strings_are_refused_with_the_offending_text() {
    let table = [
        ("foo=1", "Unknown option: foo"),
        ("foo", "Unknown option: foo"),
        ("size", "Invalid syntax: size"),
        ("off=1", "Invalid syntax: off=1"),
        ("cpus=[1", "Invalid syntax: cpus=[1"),
        ("cpus=1]", "Invalid syntax: cpus=1]"),
        ("name=\"a", "Invalid syntax: name=\"a"),
        ("size=1g", "Unable to convert 1g for size"),
        ("size=+1", "Unable to convert +1 for size"),
        (
            "size=99999999999999999G",
            "Unable to convert 99999999999999999G for size",
        ),
        ("shared=yes", "Unable to convert yes for shared"),
        ("cpus=[4-2]", "Unable to convert [4-2] for cpus"),
        ("cpus=[256]", "Unable to convert [256] for cpus"),
        ("map=1@2", "Unable to convert 1@2 for map"),
        ("map=[12@2]", "Unable to convert [12@2] for map"),
        ("lock=Full", "Unable to convert Full for lock"),
        ("topology=1:2:3", "Unable to convert 1:2:3 for topology"),
        ("features=[avx]", "Unable to convert [avx] for features"),
        ("type=iommu", "Invalid value: iommu"),
        ("bw_size=1001", "Unable to convert 1001 for bw_size"),
    ];
    for (input, expected) in table {
        let error = parse(input, KEYS).unwrap_err();
        assert_eq!(error.to_string(), expected, "{input}");
    }
}

#[test]
fn huge_integer_ranges_are_refused_without_allocating_them() {
    let keys = [Key::new("cpus", Kind::Integers(u64::MAX))];
    for input in ["cpus=[0-18446744073709551615]", "cpus=[0-65534,0-65534]"] {
        assert!(
            matches!(parse(input, &keys), Err(OptionError::Conversion { .. })),
            "{input}"
        );
    }
}

#[test]
fn device_strings_become_typed_configurations() {
    let disk: DiskConfig = parse_into(
        "path=/d.raw,readonly=on,socket=s,image_type=qcow2,id=d0,iommu=on",
        DISK,
    )
    .unwrap();
    assert_eq!(disk.path.unwrap().to_str(), Some("/d.raw"));
    assert_eq!(
        (disk.readonly, disk.iommu, disk.queue_size),
        (true, true, 128)
    );
    assert_eq!(disk.vhost_socket.as_deref(), Some("s"));

    let net: NetConfig = parse_into("tap=,fd=[3,4],bw_size=1,bw_refill_time=2", NET).unwrap();
    assert_eq!((net.tap, net.fds), (None, Some(vec![3, 4])));
    assert_eq!(
        net.rate_limiter_config
            .unwrap()
            .bandwidth
            .unwrap()
            .refill_time,
        2
    );

    let send: SendMigrationConfig =
        parse_into("destination_url=unix:/x,local=on", SEND_MIGRATION).unwrap();
    assert_eq!(
        (send.local, send.downtime_ms, send.connections),
        (true, 300, 1)
    );

    let missing = parse_into::<FsConfig>("socket=x", FS).unwrap_err();
    assert_eq!(missing, OptionError::Missing("tag"));
    let half = parse_into::<NetConfig>("bw_size=1", NET).unwrap_err();
    assert!(half.to_string().contains("refill_time"), "{half}");
}
