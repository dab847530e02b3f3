//! What the machine's thread reports, told to whoever monitors and kept for the rules about calls.

use ft::status::FtEvent;

use super::{Control, Notice, State};
use crate::api::state::Protection;
use crate::vm::{VmEvent, VmStatus};

impl Control {
    /// What the machine's thread reports.
    pub(super) fn heard(&self, event: VmEvent) {
        match event {
            VmEvent::Ft(event) => self.heard_ft(&event),
            VmEvent::DeviceLost { reason } => {
                log::error!("live without a device: {reason}");
                let properties = vec![("reason".to_owned(), reason)];
                (self.setting.events)("vm", "device-lost", properties);
            }
            VmEvent::Ended {
                end,
                was_live,
                status,
            } => {
                let mut state = self.lock();
                state.last_status = Some(self.status_value(&state, &status));
                if let Some(running) = &mut state.running {
                    running.ended = Some(end.clone());
                }
                if state.started.is_none() {
                    state.started = Some(Err(format!("the machine has ended: {end:?}")));
                }
                drop(state);
                self.changed.notify_all();
                // The main thread may be on its way out already.
                let _ = self.setting.notices.send(Notice::Ended {
                    end,
                    live: was_live,
                });
            }
        }
    }

    fn heard_ft(&self, event: &FtEvent) {
        let value = serde_json::to_value(event).unwrap_or_default();
        let mut properties = Vec::new();
        if let serde_json::Value::Object(map) = &value {
            for (key, value) in map.iter().filter(|(key, _)| *key != "event") {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                properties.push((key.clone(), text));
            }
        }
        let name = value
            .get("event")
            .and_then(serde_json::Value::as_str)
            .unwrap_or("unknown");
        log::info!("protection: {value}");
        (self.setting.events)("vm", &format!("ft-{name}"), properties);
        self.follow(event);
        let outcome = match event {
            FtEvent::Protected { .. } => Some(Ok(())),
            FtEvent::StartFailed { reason } => Some(Err(reason.clone())),
            FtEvent::Fenced { .. } | FtEvent::ProtectionLost { .. } => {
                Some(Err(format!("protection was lost while it started: {name}")))
            }
            _ => None,
        };
        if outcome.is_some() {
            self.lock().started = outcome;
            self.changed.notify_all();
        }
    }

    /// Keeps what the rules about calls ask for.
    fn follow(&self, event: &FtEvent) {
        let mut state = self.lock();
        let Some(running) = &mut state.running else {
            return;
        };
        match event {
            FtEvent::Protected { .. } => running.protection = Protection::Active,
            FtEvent::Promoted { phases, .. } => {
                running.live = true;
                // The side that handed over is the backup now.
                running.protection = if phases.planned {
                    Protection::Active
                } else {
                    Protection::None
                };
            }
            FtEvent::Demoted { .. } => {
                running.live = false;
                running.paused = false;
                running.protection = Protection::None;
            }
            FtEvent::StartFailed { .. }
            | FtEvent::ProtectionLost { .. }
            | FtEvent::Stopped
            | FtEvent::Fenced { .. } => running.protection = Protection::None,
            _ => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn status_value(&self, state: &State, status: &VmStatus) -> serde_json::Value {
        let mut value = serde_json::to_value(&status.ft).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("live".to_owned(), status.live.into());
            map.insert("peer".to_owned(), state.peer.clone().into());
            map.insert("owner".to_owned(), self.setting.owner.clone().into());
            map.insert("hypervisor".to_owned(), status.hypervisor.into());
            map.insert("clock_source".to_owned(), status.clock.into());
            map.insert("virtual_ns".to_owned(), status.virtual_ns.into());
        }
        value
    }
}
