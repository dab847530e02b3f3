//! Memory for translated code: one piece, mapped twice, so that no page can be both written and
//! executed through the same address.
//!
//! UNSAFETY: maps memory and copies bytes into it.
#![allow(unsafe_code)]

use std::io;

/// Bytes of code that fit.
pub const CAPACITY: usize = 32 << 20;

/// The two mappings.
#[derive(Debug)]
pub struct CodeBuffer {
    writable: *mut u8,
    executable: *const u8,
}

// SAFETY: both mappings belong to `self` alone and live as long as it does.
unsafe impl Send for CodeBuffer {}

impl CodeBuffer {
    /// Maps the buffer, near `text` if the host lets it, so that short calls reach there.
    ///
    /// # Errors
    /// When the host refuses, as a hardened one may.
    pub fn new(text: u64) -> io::Result<Self> {
        // SAFETY: a constant name; the descriptor is closed below on every path.
        let file = unsafe { libc::memfd_create(c"translated code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let mapped = Self::map_twice(file, text);
        // SAFETY: our own descriptor; the mappings keep the memory.
        unsafe { libc::close(file) };
        mapped
    }

    fn map_twice(file: i32, text: u64) -> io::Result<Self> {
        // SAFETY: our own descriptor.
        if unsafe { libc::ftruncate(file, CAPACITY as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let map = |hint: u64, protection| {
            // SAFETY: without MAP_FIXED a hint replaces nothing.
            let at = unsafe {
                libc::mmap(
                    hint as *mut libc::c_void,
                    CAPACITY,
                    protection,
                    libc::MAP_SHARED,
                    file,
                    0,
                )
            };
            if at == libc::MAP_FAILED {
                Err(io::Error::last_os_error())
            } else {
                Ok(at.cast::<u8>())
            }
        };
        let writable = map(0, libc::PROT_READ | libc::PROT_WRITE)?;
        // Below the program there is room, above it grows the heap.
        let hint = text.saturating_sub(512 << 20) & !0xffff;
        match map(hint, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(executable) => Ok(Self {
                writable,
                executable,
            }),
            Err(error) => {
                // SAFETY: the mapping made above, which nobody else knows.
                unsafe { libc::munmap(writable.cast(), CAPACITY) };
                Err(error)
            }
        }
    }

    /// Address at which byte `offset` is executed.
    pub fn address(&self, offset: usize) -> u64 {
        self.executable as u64 + offset as u64
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset <= CAPACITY && bytes.len() <= CAPACITY - offset);
        // SAFETY: inside the writable mapping by the assertion, and nobody executes translated
        // code while `&mut self` is borrowed. Only jumps that may have been fetched before are
        // overwritten (`link`, `drop_block`); that their new bytes are fetched although they were
        // written through another address rests on caches that are indexed by physical address,
        // as those of all x86-64 processors are, and on the call and return that lie between.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.add(offset), bytes.len());
        }
    }
}

impl Drop for CodeBuffer {
    fn drop(&mut self) {
        // SAFETY: both mappings are ours, and nothing executes in them any more.
        unsafe {
            libc::munmap(self.writable.cast(), CAPACITY);
            libc::munmap(self.executable.cast_mut().cast(), CAPACITY);
        }
    }
}
