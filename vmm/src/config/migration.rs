//! Checks of the bodies of `vm.send-migration`, `vm.receive-migration` and `vm.restore`.
//!
//! What this build does not have is refused by its name.

use api_client::types::requests::{
    MemoryRestoreMode, MigrationMemoryMode, ReceiveMigrationConfig, RestoreConfig,
    SendMigrationConfig,
};

use super::ConfigError;
use super::ft::check_address;

/// Most parallel connections.
const MOST_CONNECTIONS: u32 = 128;

fn unsupported<T>(field: &str) -> Result<T, ConfigError> {
    let field = field.to_owned();
    Err(ConfigError::NotSupported { field })
}

fn check_memory_mode(mode: MigrationMemoryMode) -> Result<(), ConfigError> {
    match mode {
        MigrationMemoryMode::Precopy => Ok(()),
        MigrationMemoryMode::Postcopy => Err(ConfigError::ValueNotSupported {
            field: "memory_mode".to_owned(),
            value: "Postcopy".to_owned(),
            supported: "Precopy",
        }),
    }
}

/// Checks the body of `vm.send-migration`.
///
/// # Errors
/// The first field that is wrong or cannot be had.
pub fn check_send_migration(config: &SendMigrationConfig) -> Result<(), ConfigError> {
    let SendMigrationConfig {
        destination_url,
        local,
        preserve_source,
        downtime_ms,
        timeout_s,
        timeout_strategy: _,
        connections,
        tls_dir,
        memory_mode,
    } = config;
    let is_unix = destination_url.starts_with("unix:");
    check_address("destination_url", destination_url)?;
    check_memory_mode(*memory_mode)?;
    if tls_dir.is_some() {
        return unsupported("tls_dir");
    }
    if *preserve_source && !local {
        return Err(ConfigError::invalid("preserve_source", "it needs local"));
    }
    if *local && !is_unix {
        let reason = "memory is handed over through a Unix socket (destination_url=unix:PATH)";
        return Err(ConfigError::invalid("local", reason));
    }
    for (field, value) in [("downtime_ms", *downtime_ms), ("timeout_s", *timeout_s)] {
        if value == 0 {
            return Err(ConfigError::invalid(field, "0 is no time"));
        }
    }
    if !(1..=MOST_CONNECTIONS).contains(connections) {
        let reason = format!("{connections} is not between 1 and {MOST_CONNECTIONS}");
        return Err(ConfigError::invalid("connections", reason));
    }
    if is_unix && *connections > 1 {
        let reason = "a Unix socket has one connection".to_owned();
        return Err(ConfigError::invalid("connections", reason));
    }
    Ok(())
}

/// Checks the body of `vm.receive-migration`.
///
/// # Errors
/// The first field that is wrong or cannot be had.
pub fn check_receive_migration(config: &ReceiveMigrationConfig) -> Result<(), ConfigError> {
    let ReceiveMigrationConfig {
        receiver_url,
        tls_dir,
        memory_mode,
        vfio_fds,
        iommufd_fd,
        zone_updates,
        hypervisor: _,
    } = config;
    check_address("receiver_url", receiver_url)?;
    check_memory_mode(*memory_mode)?;
    let given = [
        ("tls_dir", tls_dir.is_some()),
        ("vfio_fds", vfio_fds.is_some()),
        ("iommufd_fd", iommufd_fd.is_some()),
        ("zone_updates", !zone_updates.is_empty()),
    ];
    first_given(&given)
}

/// Checks the body of `vm.restore`.
///
/// # Errors
/// The first field that is wrong or cannot be had.
pub fn check_restore(config: &RestoreConfig) -> Result<(), ConfigError> {
    let RestoreConfig {
        source_url: _,
        // All pages are read before the guest runs anyway.
        prefault: _,
        memory_restore_mode,
        net_fds,
        vfio_fds,
        iommufd_fd,
        resume: _,
        zone_updates,
        hypervisor: _,
    } = config;
    if *memory_restore_mode == MemoryRestoreMode::OnDemand {
        return Err(ConfigError::ValueNotSupported {
            field: "memory_restore_mode".to_owned(),
            value: "OnDemand".to_owned(),
            supported: "Copy",
        });
    }
    let given = [
        ("net_fds", net_fds.is_some()),
        ("vfio_fds", vfio_fds.is_some()),
        ("iommufd_fd", iommufd_fd.is_some()),
        ("zone_updates", !zone_updates.is_empty()),
    ];
    first_given(&given)
}

fn first_given(fields: &[(&str, bool)]) -> Result<(), ConfigError> {
    match fields.iter().find(|(_, given)| *given) {
        Some((field, _)) => unsupported(field),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn checked<T: DeserializeOwned>(
        (name, address): (&str, &str),
        change: &Value,
        check: impl Fn(&T) -> Result<(), ConfigError>,
    ) -> Result<(), String> {
        let mut body = json!({});
        body[name] = json!(address);
        let members = change.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
        let config: T = serde_json::from_value(body).unwrap();
        check(&config).map_err(|error| error.to_string())
    }

    fn send(change: Value) -> Result<(), String> {
        checked(
            ("destination_url", "tcp:h:1"),
            &change,
            check_send_migration,
        )
    }

    #[test]
    fn an_address_is_enough() {
        assert_eq!(send(json!({})), Ok(()));
        assert_eq!(
            send(json!({"connections": 128, "timeout_strategy": "Ignore"})),
            Ok(())
        );
        let receiver = ("receiver_url", "unix:/r");
        assert_eq!(
            checked(receiver, &json!({}), check_receive_migration),
            Ok(())
        );
        let snapshot = ("source_url", "file:///s");
        let change = json!({"prefault": true, "resume": true});
        assert_eq!(checked(snapshot, &change, check_restore), Ok(()));
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (change, text) in [
            (json!({"destination_url": "h"}), "destination_url"),
            (json!({"downtime_ms": 0}), "downtime_ms"),
            (json!({"timeout_s": 0}), "timeout_s"),
            (json!({"connections": 0}), "connections: 0"),
            (json!({"connections": 129}), "connections: 129"),
            (
                json!({"destination_url": "unix:/x", "connections": 2}),
                "connections: a Unix",
            ),
            (json!({"tls_dir": "/t"}), "tls_dir is not supported"),
            (json!({"memory_mode": "Postcopy"}), "memory_mode: Postcopy"),
            (json!({"preserve_source": true}), "preserve_source"),
            (json!({"local": true}), "local: memory is handed over"),
        ] {
            let error = send(change.clone()).unwrap_err();
            assert!(error.contains(text), "{change}: {error}");
        }
        let receive = |change: Value| {
            checked(
                ("receiver_url", "unix:/r"),
                &change,
                check_receive_migration,
            )
        };
        let restore = |change: Value| checked(("source_url", "file:///s"), &change, check_restore);
        for (result, text) in [
            (receive(json!({"receiver_url": "x"})), "receiver_url"),
            (
                receive(json!({"tls_dir": "/t"})),
                "tls_dir is not supported",
            ),
            (
                receive(json!({"iommufd_fd": 3})),
                "iommufd_fd is not supported",
            ),
            (
                restore(json!({"memory_restore_mode": "OnDemand"})),
                "OnDemand",
            ),
            (
                restore(json!({"vfio_fds": []})),
                "vfio_fds is not supported",
            ),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
