//! Guest programs, written as assembly in the functions that use them.
//!
//! UNSAFETY: a program is machine code among that of its function, which jumps over it; it is read
//! as bytes, never executed here.

/// Where a program is loaded.
pub(super) const CODE: u64 = 0x10000;
/// Memory for a program's data, 64 KiB of zeros.
pub(super) const DATA: u64 = 0x30000;
/// Bytes of that.
pub(super) const DATA_SIZE: u64 = 0x10000;
/// A linear address whose page is not present.
pub(super) const ABSENT: u64 = 0x1f_0000;
/// A linear address outside of guest memory: device registers.
pub(super) const DEVICE: u64 = 0x20_0000;
/// The page table, 512 entries, of the first 2 MiB.
pub(super) const PAGE_TABLE: u64 = 0x4000;
/// Global descriptor table: null, kernel code and data, 32-bit user code (which SYSRET counts
/// from), user data, user code, task state.
pub(super) const GDT: u64 = 0x5000;
/// Interrupt descriptor table, 256 gates.
pub(super) const IDT: u64 = 0x6000;
/// The port that a program writes to when it has done its work.
pub(super) const DONE: u8 = 0x10;
/// A port for exits in between.
pub(super) const TICK: u8 = 0x11;

/// The machine code of lines of assembly (Intel syntax), as a `&'static [u8]`. It must not depend
/// on where it is. Constants go in as `name = const VALUE`.
macro_rules! program {
    ($($line:literal),+ $(; $($name:ident = $value:expr),+)? $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the processor executes two address computations and a jump over the program;
        // no register is changed but the two outputs.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::asm!(
                "lea {start}, [rip + 770f]",
                "lea {end}, [rip + 771f]",
                "jmp 771f",
                "770:",
                $($line,)+
                "771:",
                start = out(reg) start,
                end = out(reg) end,
                $($($name = const $value,)+)?
                options(nomem, nostack, preserves_flags),
            );
        }
        let len = end as usize - start as usize;
        // SAFETY: the bytes between the two labels are part of this program's text, which can be
        // read and is never changed.
        #[allow(unsafe_code)]
        let code: &'static [u8] = unsafe { std::slice::from_raw_parts(start, len) };
        code
    }};
}

pub(super) use program;
