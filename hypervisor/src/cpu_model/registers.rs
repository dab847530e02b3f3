//! Model-specific registers that only hold what was written to them, or a constant.
//!
//! A backend asks here for every register that neither its processor nor the interrupt
//! controller has. None of them changes what the processor does: memory types, for one, do not
//! matter to memory that only one processor uses. Spec: Intel SDM vol. 4, table 2-2.

use crate::arch::x86_64::msr;
use crate::state::Msrs;

/// MTRR capabilities: eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 0x508;
/// Feature control: locked, every feature off.
const FEATURE_CONTROL_LOCKED: u64 = 1;

/// Whether a register is the interrupt controller's, which is a device.
pub fn belongs_to_controller(index: u32) -> bool {
    index == msr::APIC_BASE
        || index == msr::TSC_DEADLINE
        || (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&index)
}

/// The value of a register; `None` when the model has none of this number, which is #GP.
pub fn read_register(msrs: &Msrs, index: u32) -> Option<u64> {
    Some(match index {
        msr::TSC_ADJUST => msrs.tsc_adjust,
        msr::MISC_ENABLE => msrs.misc_enable,
        msr::MTRR_CAP => MTRR_CAP,
        msr::MTRR_DEF_TYPE => msrs.mtrr_def_type,
        msr::MTRR_VARIABLE_FIRST..=msr::MTRR_VARIABLE_LAST => {
            msrs.mtrr_variable[(index - msr::MTRR_VARIABLE_FIRST) as usize]
        }
        msr::FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
        msr::MCG_STATUS => msrs.mcg_status,
        msr::PLATFORM_ID | msr::BIOS_SIGN_ID | msr::MCG_CAP | msr::DEBUGCTL => 0,
        _ => msrs.mtrr_fixed[mtrr_fixed(index)?],
    })
}

/// Writes a register; `None`, with nothing changed, when the model has none of this number or it
/// cannot take this value, which is #GP.
pub fn write_register(msrs: &mut Msrs, index: u32, value: u64) -> Option<()> {
    match index {
        msr::TSC_ADJUST => msrs.tsc_adjust = value,
        msr::MISC_ENABLE => msrs.misc_enable = value,
        msr::MTRR_DEF_TYPE => msrs.mtrr_def_type = value & 0xcff,
        msr::MTRR_VARIABLE_FIRST..=msr::MTRR_VARIABLE_LAST => {
            msrs.mtrr_variable[(index - msr::MTRR_VARIABLE_FIRST) as usize] = value;
        }
        msr::MCG_STATUS => msrs.mcg_status = value & 7,
        // Writing the revision is how software asks for it; debug control has no features here.
        msr::BIOS_SIGN_ID => {}
        msr::DEBUGCTL if value == 0 => {}
        _ => msrs.mtrr_fixed[mtrr_fixed(index)?] = value,
    }
    Some(())
}

fn mtrr_fixed(index: u32) -> Option<usize> {
    msr::MTRR_FIXED.iter().position(|&number| number == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_rest_is_refused() {
        let mut msrs = Msrs::default();
        for index in [
            msr::TSC_ADJUST,
            msr::MISC_ENABLE,
            0x200,
            0x20f,
            0x250,
            0x26f,
        ] {
            write_register(&mut msrs, index, 0x800).unwrap();
            assert_eq!(read_register(&msrs, index), Some(0x800), "{index:#x}");
        }
        let before = msrs.clone();
        for (index, value) in [
            (msr::DEBUGCTL, 1),
            (msr::MTRR_CAP, 1),
            (0x8000, 0),
            (0x3a, 0),
        ] {
            assert_eq!(write_register(&mut msrs, index, value), None, "{index:#x}");
        }
        assert_eq!(msrs, before);
        assert_eq!(read_register(&msrs, 0x8000), None);
        assert_eq!(read_register(&msrs, msr::FEATURE_CONTROL), Some(1));
    }
}
