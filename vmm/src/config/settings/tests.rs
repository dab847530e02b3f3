//! Tests of what a configuration is checked for.

use serde_json::json;

use super::*;

const HOST: HostLimits = HostLimits {
    memory_bytes: 8 << 30,
};

fn validate(change: Value) -> Result<VmSettings, ConfigError> {
    let mut config = json!({"payload": {"kernel": "/k"}});
    merge(&mut config, change);
    let config: VmConfig = serde_json::from_value(config).unwrap();
    VmSettings::validate(&config, &HOST)
}

fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (name, value) in change {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}

#[test]
fn a_kernel_is_enough() {
    let settings = validate(json!({})).unwrap();
    assert_eq!(settings.memory_bytes, 512 << 20);
    assert_eq!(settings.kernel.to_str(), Some("/k"));
    assert_eq!(settings.serial, Some(SerialTarget::Null));
    assert_eq!(settings.hypervisor, HypervisorChoice::Auto);
}

#[test]
fn upstream_defaults_written_out_are_accepted() {
    let everything = serde_json::to_value(VmConfig::default()).unwrap();
    assert!(validate(everything).is_ok());
    let more = json!({
        "disks": [], "net": [], "console": {"mode": "Tty"}, "rng": {"src": "/dev/urandom"},
        "platform": {"num_pci_segments": 1, "iommu_address_width_bits": 64, "hypervisor": "software"},
        "memory": {"size": 268_435_456, "thp": true, "hotplug_method": "Acpi"},
        "serial": {"mode": "Socket", "socket": "/s"}, "disks": null,
    });
    let settings = validate(more).unwrap();
    assert_eq!(settings.hypervisor, HypervisorChoice::Software);
    assert_eq!(settings.serial, Some(SerialTarget::Socket("/s".into())));
}

#[test]
fn every_refusal_names_the_field_and_has_its_status() {
    let table = [
        (json!({"payload": {"kernel": null}}), 400, "not bootable"),
        (json!({"payload": {"firmware": "/f"}}), 400, "not bootable"),
        (
            json!({"payload": {"kernel": null, "firmware": "/f"}}),
            400,
            "payload.firmware",
        ),
        (json!({"payload": {"igvm": "/i"}}), 400, "payload.igvm"),
        (
            json!({"cpus": {"boot_vcpus": 0, "max_vcpus": 1}}),
            400,
            "cpus.boot_vcpus",
        ),
        (
            json!({"cpus": {"boot_vcpus": 2, "max_vcpus": 1}}),
            400,
            "cpus.max_vcpus",
        ),
        (
            json!({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}}),
            400,
            "cpus.boot_vcpus: 2",
        ),
        (
            json!({"cpus": {"boot_vcpus": 1, "max_vcpus": 4}}),
            400,
            "cpus.max_vcpus: 4",
        ),
        (
            json!({"cpus": {"boot_vcpus": 1, "max_vcpus": 1, "nested": false}}),
            400,
            "cpus.nested",
        ),
        (
            json!({"cpus": {"boot_vcpus": 1, "max_vcpus": 1, "features": {"amx": true}}}),
            400,
            "cpus.features.amx",
        ),
        (json!({"memory": {"size": 0}}), 400, "memory.size"),
        (
            json!({"memory": {"size": (8_u64 << 30) + 4096}}),
            400,
            "memory.size",
        ),
        (json!({"memory": {"size": 4097}}), 400, "memory.size"),
        (
            json!({"memory": {"size": 4096, "hugepages": true}}),
            400,
            "memory.hugepages",
        ),
        (
            json!({"memory": {"size": 4096, "zones": [{"id": "a", "size": 1}]}}),
            400,
            "memory.zones",
        ),
        (json!({"serial": {"mode": "File"}}), 400, "serial.file"),
        (
            json!({"serial": {"mode": "Socket", "socket": ""}}),
            400,
            "serial.socket",
        ),
        (json!({"console": {"mode": "File"}}), 400, "console.file"),
        (
            json!({"console": {"mode": "Socket", "socket": "/s"}}),
            400,
            "console.mode: Socket",
        ),
        (
            json!({"console": {"mode": "Off", "pci_segment": 1}}),
            400,
            "console.pci_segment",
        ),
        (json!({"disks": [{"id": "d"}]}), 400, "disks[0].path"),
        (
            json!({"rng": {"src": "/dev/random", "pci_segment": 1}}),
            400,
            "rng.pci_segment",
        ),
        (json!({"balloon": {"size": 0}}), 400, "balloon"),
        (json!({"rtc": {}}), 400, "rtc"),
        (json!({"watchdog": true}), 400, "watchdog"),
        (
            json!({"platform": {"uuid": "x"}}),
            400,
            "platform.system_uuid",
        ),
        (json!({"ivshmem": {}}), 400, "ivshmem"),
        (
            json!({"disks": [{"id": "a"}], "net": [{"id": "a"}]}),
            409,
            "Identifier a is not unique",
        ),
        (json!({"disks": [{"id": "__a"}]}), 400, "Identifier __a"),
        (
            json!({"devices": [{"path": "/x"}, {"path": "/x"}]}),
            409,
            "/x",
        ),
    ];
    for (change, status, text) in table {
        let error = validate(change.clone()).unwrap_err();
        assert_eq!(error.status(), status, "{change}: {error}");
        assert!(error.to_string().contains(text), "{change}: {error}");
    }
}

#[test]
fn a_console_left_at_the_default_yields_the_terminal_to_the_serial_port() {
    let mut config = VmConfig::default();
    VmSettings::settle(&mut config, || [0; 6]);
    assert_eq!(config.console.mode, ConsoleMode::Tty);
    config.serial.mode = ConsoleMode::Tty;
    VmSettings::settle(&mut config, || [0; 6]);
    assert_eq!(config.console.mode, ConsoleMode::Off);
}

#[test]
fn the_hosts_memory_is_read_from_meminfo() {
    assert_eq!(
        memory_total("MemTotal:        2048 kB\nMemFree: 1 kB\n"),
        Some(2 << 20)
    );
    assert_eq!(memory_total("MemFree: 1 kB\n"), None);
    assert!(HostLimits::probe().unwrap().memory_bytes > 1 << 20);
}
