//! `vm.info`: the configuration, with what the host has chosen in it, and the state.

use std::collections::BTreeMap;

use api_client::types::{ConsoleMode, VmConfig, VmInfo, VmState};

use super::{Control, ControlError, Running};
use crate::host::devices::{CONSOLE_NAME, SERIAL_NAME};
use crate::migration::progress::Progress;

impl Control {
    /// `vm.info`.
    ///
    /// # Errors
    /// When there is no VM.
    pub fn info(&self) -> Result<VmInfo, ControlError> {
        let (mut config, vm_state, handle, migration) = {
            let state = self.lock();
            let config = state.config.clone().ok_or_else(|| {
                ControlError::new(
                    404,
                    "The VM info is not available",
                    vec!["VM is not created".to_owned()],
                )
            })?;
            let vm_state = match &state.running {
                Some(Running { ended: Some(_), .. }) => VmState::Shutdown,
                Some(Running { paused: true, .. }) => VmState::Paused,
                Some(_) => VmState::Running,
                None => VmState::Created,
            };
            let handle = state.running.as_ref().map(|running| running.handle.clone());
            let migration = state.last_migration.as_ref().map(Progress::info);
            (config, vm_state, handle, migration)
        };
        // A machine that has ended has nothing open.
        if let Some(Ok(status)) = handle.map(|handle| handle.status()) {
            show_places(&mut config, &status.places);
        }
        let memory_actual_size = config.memory.size;
        Ok(VmInfo {
            config,
            state: vm_state,
            memory_actual_size,
            device_tree: None,
            migration,
        })
    }
}

/// Puts pseudoterminals and taps into the configuration, where clients look for them.
fn show_places(config: &mut VmConfig, places: &BTreeMap<String, String>) {
    let serial = &mut config.serial;
    let console = &mut config.console;
    for (name, mode, file) in [
        (SERIAL_NAME, serial.mode, &mut serial.file),
        (CONSOLE_NAME, console.mode, &mut console.file),
    ] {
        if mode == ConsoleMode::Pty {
            *file = places.get(name).map(Into::into);
        }
    }
    for net in config.net.iter_mut().flatten() {
        let place = net.id.as_ref().and_then(|id| places.get(id));
        if let Some(tap) = place {
            net.tap = Some(tap.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_host_has_chosen_is_shown_where_it_was_left_open() {
        let mut config: VmConfig = serde_json::from_value(json!({
            "serial": {"mode": "Pty", "file": "/dev/pts/77"},
            "console": {"mode": "File", "file": "/f"},
            "net": [{"id": "_net0"}, {"id": "_net1", "tap": "mine"}],
        }))
        .unwrap();
        let places = [("__console", "/dev/pts/4"), ("_net0", "vmtap3")];
        let places = places.map(|(name, place)| (name.to_owned(), place.to_owned()));
        show_places(&mut config, &BTreeMap::from(places));
        let shown = serde_json::to_value(&config).unwrap();
        // One of an earlier time is not shown, and a file is no pseudoterminal.
        assert_eq!(shown["serial"], json!({"mode": "Pty"}));
        assert_eq!(shown["console"]["file"], "/f");
        assert_eq!(shown["net"][0]["tap"], "vmtap3");
        assert_eq!(shown["net"][1]["tap"], "mine");
    }
}
