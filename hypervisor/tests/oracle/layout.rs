//! What both processors start from and end in, and where it lies.
//!
//! ```text
//! 2000_0000 code, 2 pages, readable, writable, executable
//! 2001_0000 data, 8 pages; then a read-only page; then nothing
//! 2003_0000 stack, 4 pages
//! 2004_0000 images of FXSAVE and the like, 1 page
//! ```

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Start of the code.
pub const CODE: u64 = 0x2000_0000;
/// Bytes of code.
pub const CODE_SIZE: u64 = 2 * PAGE;
/// Start of the data.
pub const DATA: u64 = 0x2001_0000;
/// Bytes of data.
pub const DATA_SIZE: u64 = 8 * PAGE;
/// The read-only page.
pub const READ_ONLY: u64 = DATA + DATA_SIZE;
/// Start of the stack's pages.
pub const STACK: u64 = 0x2003_0000;
/// Bytes of stack.
pub const STACK_SIZE: u64 = 4 * PAGE;
/// Start of the page for images.
pub const IMAGES: u64 = 0x2004_0000;
/// All of it.
pub const ARENA_SIZE: u64 = 0x10_0000;

/// Flags that instructions can set and that are compared, unless undefined: CF PF AF ZF SF OF DF.
pub const FLAGS: u64 = 0xcd5;

/// Registers and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Those of [`FLAGS`].
    pub flags: u64,
    /// FXSAVE image with REX.W, up to byte 416.
    pub fxsave: [u8; 416],
    /// The data pages.
    pub data: Vec<u8>,
    /// The stack pages.
    pub stack: Vec<u8>,
    /// The page of images.
    pub images: Vec<u8>,
}

/// Where and why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exception vector.
    pub vector: u8,
    /// Error code; zero where there is none.
    pub error: u64,
    /// Address of the instruction, or after it for traps.
    pub rip: u64,
    /// CR2 of a page fault; zero for others.
    pub address: u64,
    /// Registers and memory then.
    pub state: State,
}
