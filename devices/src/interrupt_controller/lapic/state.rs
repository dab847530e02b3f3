//! Life cycle and saved state of the local APIC.

use serde::{Deserialize, Serialize};

use crate::clock::VirtualTime;
use crate::device::Device;
use crate::saved::{RestoreError, SavedState, check};

use super::registers::{LVT_MASKED, LVT_REMOTE_IRR, LVT_WRITABLE, Lvt, SVR_ENABLED};
use super::timer::Timer;
use super::vectors::VectorSet;
use super::{BASE_ENABLED, BASE_X2APIC, KIND, Lapic, LapicConfig};

impl Device for Lapic {
    type Saved = LapicStateV2;

    fn reset(&mut self, _now: VirtualTime) {
        *self = Self::new(self.config);
    }

    fn advance(&mut self, now: VirtualTime) {
        if self.timer.advance(self.timer_mode(), now) {
            // A timer entry can only be fixed, so there is no signal.
            self.raise(Lvt::Timer);
        }
    }

    fn next_deadline(&self) -> Option<VirtualTime> {
        if self.lvt[Lvt::Timer as usize] & LVT_MASKED != 0 {
            return None;
        }
        self.timer.expiry(self.timer_mode())
    }

    fn save(&self) -> LapicStateV2 {
        let Self {
            config,
            base,
            xapic_id,
            task_priority,
            logical_id,
            destination_format,
            spurious,
            icr,
            lvt,
            errors,
            new_errors,
            requests,
            in_service,
            level_triggered,
            lint0,
            timer,
        } = self;
        LapicStateV2 {
            config: *config,
            base: *base,
            xapic_id: *xapic_id,
            task_priority: *task_priority,
            logical_id: *logical_id,
            destination_format: *destination_format,
            spurious: *spurious,
            icr: *icr,
            lvt: *lvt,
            errors: *errors,
            new_errors: *new_errors,
            requests: *requests,
            in_service: *in_service,
            level_triggered: *level_triggered,
            lint0: *lint0,
            timer: timer.clone(),
        }
    }

    fn restore(saved: LapicStateV2) -> Result<Self, RestoreError> {
        let bits = saved.config.phys_address_bits;
        check(
            (36..=52).contains(&bits),
            KIND,
            "config.phys_address_bits",
            bits,
        )?;
        let khz = saved.config.tsc_khz;
        check(khz != 0, KIND, "config.tsc_khz", khz)?;
        check(saved.base >> bits == 0, KIND, "base", saved.base)?;
        let mode = saved.base & (BASE_ENABLED | BASE_X2APIC);
        check(mode != BASE_X2APIC, KIND, "base", saved.base)?;
        for (entry, writable) in saved.lvt.iter().zip(LVT_WRITABLE) {
            check(
                entry & !(writable | LVT_REMOTE_IRR) == 0,
                KIND,
                "lvt",
                entry,
            )?;
            let masked = saved.spurious & SVR_ENABLED != 0 || entry & LVT_MASKED != 0;
            check(masked, KIND, "lvt", entry)?;
        }
        for (name, set) in [
            ("requests", saved.requests),
            ("in_service", saved.in_service),
        ] {
            check(set[0] & 0xffff == 0, KIND, name, set)?;
        }
        saved.timer.check(KIND)?;
        Ok(Self {
            config: saved.config,
            base: saved.base,
            xapic_id: saved.xapic_id,
            task_priority: saved.task_priority,
            logical_id: saved.logical_id,
            destination_format: saved.destination_format,
            spurious: saved.spurious,
            icr: saved.icr,
            lvt: saved.lvt,
            errors: saved.errors,
            new_errors: saved.new_errors,
            requests: saved.requests,
            in_service: saved.in_service,
            level_triggered: saved.level_triggered,
            lint0: saved.lint0,
            timer: saved.timer,
        })
    }
}

/// Saved state of the local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicStateV2 {
    pub(super) config: LapicConfig,
    pub(super) base: u64,
    pub(super) xapic_id: u8,
    pub(super) task_priority: u8,
    pub(super) logical_id: u32,
    pub(super) destination_format: u32,
    pub(super) spurious: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; Lvt::COUNT],
    pub(super) errors: u32,
    pub(super) new_errors: u32,
    pub(super) requests: VectorSet,
    pub(super) in_service: VectorSet,
    pub(super) level_triggered: VectorSet,
    pub(super) lint0: bool,
    pub(super) timer: Timer,
}

impl SavedState for LapicStateV2 {
    const KIND: &'static str = KIND;
    const VERSION: u16 = 2;
}
