//! Devices of a configuration: order, names, refusals.

use serde_json::{Value, json};

use super::*;

fn config(value: Value) -> VmConfig {
    let mut config: VmConfig = serde_json::from_value(value).unwrap();
    settle(&mut config, || [0xff, 1, 2, 3, 4, 5]);
    config
}

fn refusal(value: Value) -> String {
    devices(&config(value)).unwrap_err().to_string()
}

#[test]
fn devices_stand_in_a_fixed_order_and_all_have_names() {
    let config = config(json!({
        "net": [{"tap": "t0"}, {"id": "lan", "mac": "52:54:00:00:00:01", "ip": "10.0.0.1"}],
        "disks": [{"path": "/a", "ft": "shared"}, {"path": "/b", "image_type": "Qcow2"}],
        "vsock": {"cid": 3, "socket": "/s"},
        "console": {"mode": "Null"},
    }));
    let devices = devices(&config).unwrap();
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let expected = [
        "__console",
        "__rng",
        "_disk0",
        "_disk1",
        "_net2",
        "lan",
        "_vsock4",
    ];
    assert_eq!(ids, expected);
    let DeviceKind::Disk(disk) = &devices[2].kind else {
        panic!("{devices:?}");
    };
    assert_eq!(disk.mode, DiskMode::Outside);
    assert_eq!(disk.serial, "_disk0");
    let DeviceKind::Net(net) = &devices[4].kind else {
        panic!("{devices:?}");
    };
    assert_eq!(net.mac, [0xfe, 1, 2, 3, 4, 5]);
    assert_eq!(
        config.net.unwrap()[0].mac.as_deref(),
        Some("fe:01:02:03:04:05")
    );
}

#[test]
fn what_is_wrong_or_cannot_be_had_is_refused_by_the_fields_name() {
    let table = [
        (json!({"disks": [{}]}), "disks[0].path: is missing"),
        (
            json!({"disks": [{"path": "/a"}, {"path": "/b", "vhost_user": true}]}),
            "disks[1].vhost_user is not supported",
        ),
        (
            json!({"disks": [{"path": "/a", "image_type": "Vhdx"}]}),
            "disks[0].image_type: Vhdx",
        ),
        (
            json!({"disks": [{"path": "/a", "num_queues": 2}]}),
            "disks[0].num_queues",
        ),
        (json!({"net": [{"mac": "1:2"}]}), "net[0].mac: \"1:2\""),
        (
            json!({"net": [{"mac": "01:00:00:00:00:00"}]}),
            "address of a group",
        ),
        (json!({"net": [{"ip": "10.0.0"}]}), "net[0].ip: \"10.0.0\""),
        (
            json!({"net": [{"mask": "255.0.0.0"}]}),
            "net[0].ip: a mask needs",
        ),
        (json!({"net": [{"mtu": 100}]}), "net[0].mtu"),
        (
            json!({"net": [{"num_queues": 4}]}),
            "net[0].num_queues is not supported",
        ),
        (json!({"vsock": {"cid": 2, "socket": "/s"}}), "vsock.cid: 2"),
        (
            json!({"vsock": {"cid": 3, "socket": ""}}),
            "vsock.socket: is missing",
        ),
        (
            json!({"console": {"mode": "Socket", "socket": "/s"}}),
            "console.mode: Socket",
        ),
        (
            json!({"rng": {"src": "/dev/random", "iommu": true}}),
            "rng.iommu",
        ),
    ];
    for (value, expected) in table {
        let text = refusal(value.clone());
        assert!(text.contains(expected), "{value}: {text}");
    }
    let many: Vec<Value> = (0..40).map(|_| json!({"path": "/a"})).collect();
    assert!(refusal(json!({"disks": many})).contains("virtio devices, 31 can be had"));
}
