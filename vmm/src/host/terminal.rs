//! Standard input in raw mode, and as it was before afterwards.
//!
//! UNSAFETY: calls of the C library with a structure of our own and the standard descriptor.
#![allow(unsafe_code)]

use std::io::{Error, IsTerminal};

/// Standard input in raw mode for as long as this lives.
pub struct RawTerminal {
    before: libc::termios,
}

impl RawTerminal {
    /// Switches standard input to raw mode; `None` when it is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn of_standard_input() -> std::io::Result<Option<Self>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        // SAFETY: all-zero bytes are a valid termios, and the call fills it.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the structure lives through the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut before) } != 0 {
            return Err(Error::last_os_error());
        }
        let mut raw = before;
        // SAFETY: changes only the structure.
        unsafe { libc::cfmakeraw(&mut raw) };
        // SAFETY: the structure lives through the call.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw) } != 0 {
            return Err(Error::last_os_error());
        }
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the structure lives through the call. A terminal that has gone cannot be reset.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.before) };
    }
}
