//! FXSAVE and FXRSTOR: x87, MXCSR and XMM registers in 512 bytes.
//!
//! ```text
//!   0 FCW   2 FSW   4 abridged tags   6 opcode   8 instruction offset  (12 selector)
//!  16 data offset  (20 selector)     24 MXCSR   28 MXCSR_MASK
//!  32 ST(0)..ST(7), 16 bytes each   160 XMM0..XMM15   416 reserved and software's
//! ```
//! With REX.W the two offsets are 64 bits wide and there are no selectors. Outside 64-bit mode
//! only XMM0 to XMM7 take part. Always saves opcode and pointers, pending exception or not. Spec:
//! Intel SDM vol. 1, section 10.5.1; vol. 2, FXSAVE.

use super::state::X87State;
use crate::software::float::F80;
use crate::software::simd::Mxcsr;

/// Bytes of the image.
pub const FXSAVE_SIZE: usize = 512;

/// The image.
pub type FxsaveImage = [u8; FXSAVE_SIZE];

/// Layout of the pointers, and how many XMM registers take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FxsaveFormat {
    /// Outside 64-bit mode: 32-bit offsets, eight XMM registers.
    Legacy,
    /// 64-bit mode without REX.W: 32-bit offsets, sixteen XMM registers.
    Long32,
    /// 64-bit mode with REX.W: 64-bit offsets, sixteen XMM registers.
    Long64,
}

impl FxsaveFormat {
    const fn xmm_count(self) -> usize {
        match self {
            Self::Legacy => 8,
            Self::Long32 | Self::Long64 => 16,
        }
    }

    /// Bytes at the start of the image that FXSAVE writes; it leaves the rest alone.
    pub const fn written_size(self) -> usize {
        160 + 16 * self.xmm_count()
    }
}

/// Why FXRSTOR refuses an image: the guest gets #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FxrstorError {
    /// MXCSR has reserved bits set.
    ReservedMxcsr(u32),
}

/// A field of the image.
fn field<const N: usize>(image: &FxsaveImage, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&image[offset..offset + N]);
    bytes
}

fn put(image: &mut FxsaveImage, offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl X87State {
    /// FXSAVE into an image, of which only the written part changes.
    pub fn fxsave(
        &self,
        format: FxsaveFormat,
        mxcsr: Mxcsr,
        xmm: &[u128; 16],
        image: &mut FxsaveImage,
    ) {
        put(image, 0, &self.control.to_le_bytes());
        put(image, 2, &self.status_word().to_le_bytes());
        put(image, 4, &[self.occupied, 0]);
        put(image, 6, &self.opcode.to_le_bytes());
        let (mut instruction, mut data) = (self.instruction_pointer, self.data_pointer);
        if format != FxsaveFormat::Long64 {
            let selector = |value: u16| u64::from(value) << 32;
            instruction = instruction & 0xffff_ffff | selector(self.instruction_selector);
            data = data & 0xffff_ffff | selector(self.data_selector);
        }
        put(image, 8, &instruction.to_le_bytes());
        put(image, 16, &data.to_le_bytes());
        put(image, 24, &mxcsr.bits().to_le_bytes());
        put(image, 28, &Mxcsr::MASK.to_le_bytes());
        for i in 0..8u8 {
            let offset = 32 + 16 * usize::from(i);
            put(image, offset, &self.st(i).to_le_bytes());
            put(image, offset + 10, &[0; 6]);
        }
        for (i, register) in xmm.iter().take(format.xmm_count()).enumerate() {
            put(image, 160 + 16 * i, &register.to_le_bytes());
        }
    }

    /// FXRSTOR from an image: replaces the x87 and the XMM registers and answers MXCSR.
    ///
    /// # Errors
    /// Reserved bits of MXCSR; then nothing is changed.
    pub fn fxrstor(
        &mut self,
        format: FxsaveFormat,
        image: &FxsaveImage,
        xmm: &mut [u128; 16],
    ) -> Result<Mxcsr, FxrstorError> {
        let bits = u32::from_le_bytes(field(image, 24));
        let mxcsr = Mxcsr::from_bits(bits).ok_or(FxrstorError::ReservedMxcsr(bits))?;
        self.set_control(u16::from_le_bytes(field(image, 0)));
        self.set_status_word(u16::from_le_bytes(field(image, 2)));
        self.occupied = image[4];
        self.opcode = u16::from_le_bytes(field(image, 6)) & 0x7ff;
        self.instruction_pointer = u64::from_le_bytes(field(image, 8));
        self.data_pointer = u64::from_le_bytes(field(image, 16));
        (self.instruction_selector, self.data_selector) = (0, 0);
        if format != FxsaveFormat::Long64 {
            self.instruction_selector = (self.instruction_pointer >> 32) as u16;
            self.data_selector = (self.data_pointer >> 32) as u16;
            self.instruction_pointer &= 0xffff_ffff;
            self.data_pointer &= 0xffff_ffff;
        }
        for i in 0..8u8 {
            let physical = self.physical(i);
            self.registers[physical] = F80::from_le_bytes(field(image, 32 + 16 * usize::from(i)));
        }
        for (i, register) in xmm.iter_mut().take(format.xmm_count()).enumerate() {
            *register = u128::from_le_bytes(field(image, 160 + 16 * i));
        }
        Ok(mxcsr)
    }
}
