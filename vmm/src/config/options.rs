//! The command line's option strings, turned into parts of a VM's configuration.

use api_client::options::{
    self, CPUS, DISK, MEMORY, NET, OptionError, PLATFORM, RESTORE, RNG, VSOCK,
};
use api_client::types::devices::{DiskConfig, NetConfig, RngConfig, VsockConfig};
use api_client::types::requests::RestoreConfig;
use api_client::types::vm::DEFAULT_MEMORY_BYTES;
use api_client::types::{CpusConfig, MemoryConfig, PlatformConfig};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Reads the argument of `--cpus`: one processor by default, and as many later as at boot.
///
/// # Errors
/// The first key or value that is wrong.
pub fn cpus(text: &str) -> Result<CpusConfig, OptionError> {
    let mut object = options::parse(text, CPUS)?;
    let boot = object.entry("boot_vcpus").or_insert(json!(1)).clone();
    object.entry("max_vcpus").or_insert(boot);
    from_object(object)
}

/// Reads the argument of `--memory`: 512 MiB by default.
///
/// # Errors
/// The first key or value that is wrong.
pub fn memory(text: &str) -> Result<MemoryConfig, OptionError> {
    let mut object = options::parse(text, MEMORY)?;
    object.entry("size").or_insert(json!(DEFAULT_MEMORY_BYTES));
    from_object(object)
}

/// Reads the argument of `--restore`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn restore(text: &str) -> Result<RestoreConfig, OptionError> {
    options::parse_into(text, RESTORE)
}

/// Reads the argument of `--platform`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn platform(text: &str) -> Result<PlatformConfig, OptionError> {
    options::parse_into(text, PLATFORM)
}

/// Reads the argument of `--rng`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn rng(text: &str) -> Result<RngConfig, OptionError> {
    options::parse_into(text, RNG)
}

/// Reads an argument of `--disk`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn disk(text: &str) -> Result<DiskConfig, OptionError> {
    options::parse_into(text, DISK)
}

/// Reads an argument of `--net`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn net(text: &str) -> Result<NetConfig, OptionError> {
    options::parse_into(text, NET)
}

/// Reads the argument of `--vsock`.
///
/// # Errors
/// The first key or value that is wrong.
pub fn vsock(text: &str) -> Result<VsockConfig, OptionError> {
    options::parse_into(text, VSOCK)
}

fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, OptionError> {
    serde_json::from_value(Value::Object(object))
        .map_err(|error| OptionError::InvalidValue(error.to_string()))
}

#[cfg(test)]
mod tests {
    use api_client::types::HypervisorChoice;

    use super::*;

    #[test]
    fn strings_become_the_configuration_that_json_would_give() {
        let table = [
            (
                cpus("boot=2,max=4,nested=off").unwrap(),
                json!({"boot_vcpus": 2, "max_vcpus": 4, "nested": false}),
            ),
            (
                cpus("boot=3").unwrap(),
                json!({"boot_vcpus": 3, "max_vcpus": 3}),
            ),
            (cpus("").unwrap(), json!({"boot_vcpus": 1, "max_vcpus": 1})),
        ];
        for (parsed, expected) in table {
            assert_eq!(
                parsed,
                serde_json::from_value::<CpusConfig>(expected).unwrap()
            );
        }
        assert_eq!(memory("").unwrap(), MemoryConfig::default());
        assert_eq!(memory("size=1G,shared=on").unwrap().size, 1 << 30);
        assert_eq!(
            platform("hypervisor=Software").unwrap().hypervisor,
            Some(HypervisorChoice::Software)
        );
        assert_eq!(rng("src=/dev/urandom").unwrap(), RngConfig::default());
    }

    #[test]
    fn wrong_strings_name_the_key() {
        let table = [
            (
                cpus("boot=x").unwrap_err().to_string(),
                "Unable to convert x for boot",
            ),
            (
                cpus("boot=4294967296").unwrap_err().to_string(),
                "Unable to convert 4294967296 for boot",
            ),
            (
                memory("file=/x").unwrap_err().to_string(),
                "Unknown option: file",
            ),
            (
                platform("hypervisor=xen").unwrap_err().to_string(),
                "Unable to convert xen for hypervisor",
            ),
        ];
        for (error, expected) in table {
            assert_eq!(error, expected);
        }
    }
}
