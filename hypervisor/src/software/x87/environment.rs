//! FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87 environment in memory.
//!
//! ```text
//! 32-bit protected (28 bytes)          16-bit protected (14 bytes)
//!  0 control   4 status   8 tags        0 control   2 status   4 tags
//! 12 instruction offset                 6 instruction offset
//! 16 code selector, opcode << 16        8 code selector
//! 20 data offset                       10 data offset
//! 24 data selector                     12 data selector
//! ```
//! FNSAVE appends ST(0) to ST(7), ten bytes each. In the real-address forms the offsets and
//! selectors are 20- or 32-bit linear addresses split over both fields, with the opcode. Spec:
//! Intel SDM vol. 1, section 8.1.10, figures 8-9 to 8-12.

use super::state::X87State;
use crate::software::float::{Exceptions, F80};

/// Layout of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentFormat {
    /// 28 bytes with selectors; also what 64-bit mode uses.
    Protected32,
    /// 14 bytes with selectors.
    Protected16,
    /// 28 bytes with linear addresses.
    Real32,
    /// 14 bytes with 20-bit linear addresses.
    Real16,
}

impl EnvironmentFormat {
    /// Bytes of FNSTENV and FLDENV.
    pub const fn environment_size(self) -> usize {
        match self {
            Self::Protected32 | Self::Real32 => 28,
            Self::Protected16 | Self::Real16 => 14,
        }
    }

    /// Bytes of FNSAVE and FRSTOR.
    pub const fn save_size(self) -> usize {
        self.environment_size() + 80
    }

    const fn is_wide(self) -> bool {
        self.environment_size() == 28
    }
}

/// An image in memory: the first `environment_size` or `save_size` bytes of it are meaningful.
type Image = [u8; 108];

/// The seven fields of an environment, each 32 bits wide here.
type Fields = [u32; 7];

impl X87State {
    /// FNSTENV: the image (its first `environment_size` bytes). Masks all exceptions afterwards.
    pub fn fnstenv(&mut self, format: EnvironmentFormat) -> Image {
        let mut image = [0; 108];
        write_fields(&mut image, format, self.environment_fields(format));
        self.set_control(self.control | u16::from(Exceptions::ALL.bits()));
        image
    }

    /// FLDENV from an image. Pending exceptions that are unmasked set ES.
    pub fn fldenv(&mut self, format: EnvironmentFormat, image: &Image) {
        let fields = read_fields(image, format);
        let [
            control,
            status,
            tags,
            offset,
            selector,
            data_offset,
            data_selector,
        ] = fields;
        self.set_control(control as u16);
        self.set_status_word(status as u16);
        self.set_tag_word(tags as u16);
        match format {
            EnvironmentFormat::Protected32 | EnvironmentFormat::Protected16 => {
                self.instruction_pointer = u64::from(offset);
                self.instruction_selector = selector as u16;
                self.data_pointer = u64::from(data_offset);
                self.data_selector = data_selector as u16;
                if format.is_wide() {
                    self.opcode = (selector >> 16) as u16 & 0x7ff;
                }
            }
            EnvironmentFormat::Real32 | EnvironmentFormat::Real16 => {
                let high = |field: u32| u64::from(field >> 12) << 16;
                self.instruction_pointer = u64::from(offset as u16) | high(selector & 0x0fff_f000);
                self.data_pointer =
                    u64::from(data_offset as u16) | high(data_selector & 0x0fff_f000);
                self.instruction_selector = 0;
                self.data_selector = 0;
                self.opcode = selector as u16 & 0x7ff;
            }
        }
    }

    /// FNSAVE: the image (its first `save_size` bytes). Initialises the x87 afterwards.
    pub fn fnsave(&mut self, format: EnvironmentFormat) -> Image {
        let mut image = [0; 108];
        write_fields(&mut image, format, self.environment_fields(format));
        for i in 0..8 {
            let start = format.environment_size() + 10 * usize::from(i);
            image[start..start + 10].copy_from_slice(&self.st(i).to_le_bytes());
        }
        self.fninit();
        image
    }

    /// FRSTOR from an image.
    pub fn frstor(&mut self, format: EnvironmentFormat, image: &Image) {
        self.fldenv(format, image);
        for i in 0..8 {
            let start = format.environment_size() + 10 * usize::from(i);
            let mut bytes = [0; 10];
            bytes.copy_from_slice(&image[start..start + 10]);
            let physical = self.physical(i);
            self.registers[physical] = F80::from_le_bytes(bytes);
        }
    }

    fn environment_fields(&self, format: EnvironmentFormat) -> Fields {
        let offset = self.instruction_pointer as u32;
        let data_offset = self.data_pointer as u32;
        let opcode = u32::from(self.opcode);
        let pointers = match format {
            EnvironmentFormat::Protected32 | EnvironmentFormat::Protected16 => [
                offset,
                u32::from(self.instruction_selector) | opcode << 16,
                data_offset,
                u32::from(self.data_selector),
            ],
            EnvironmentFormat::Real32 | EnvironmentFormat::Real16 => {
                let base = |selector: u16| u32::from(selector) << 4;
                let code = offset.wrapping_add(base(self.instruction_selector));
                let data = data_offset.wrapping_add(base(self.data_selector));
                [
                    code & 0xffff,
                    (code >> 16) << 12 | opcode,
                    data & 0xffff,
                    (data >> 16) << 12,
                ]
            }
        };
        let [offset, selector, data_offset, data_selector] = pointers;
        let unused = if format.is_wide() { 0xffff_0000 } else { 0 };
        let data_unused = if format == EnvironmentFormat::Protected32 {
            unused
        } else {
            0
        };
        [
            u32::from(self.control) | unused,
            u32::from(self.status_word()) | unused,
            u32::from(self.tag_word()) | unused,
            offset,
            selector,
            data_offset,
            data_selector | data_unused,
        ]
    }
}

fn write_fields(image: &mut Image, format: EnvironmentFormat, fields: Fields) {
    let size = format.environment_size() / 7;
    for (chunk, field) in image.chunks_exact_mut(size).zip(fields) {
        chunk.copy_from_slice(&field.to_le_bytes()[..size]);
    }
}

fn read_fields(image: &Image, format: EnvironmentFormat) -> Fields {
    let size = format.environment_size() / 7;
    let mut fields = [0; 7];
    for (field, chunk) in fields.iter_mut().zip(image.chunks_exact(size)) {
        let mut bytes = [0; 4];
        bytes[..size].copy_from_slice(chunk);
        *field = u32::from_le_bytes(bytes);
    }
    fields
}
