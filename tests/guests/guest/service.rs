//! The line service on the serial console: one reply line for each request line.
//!
//! ```text
//! HELLO                   ->  HELLO <last n> <chain-hex>
//! REQ <n> <payload-hex>   ->  REP <n> <chain-hex>           n is the next number, or was answered
//!                             ERR <n> expected <m>          n is beyond the next number m
//!                             ERR <n> forgotten             n was answered too long ago
//! anything else           ->  ERR syntax
//! ```
//!
//! Requests are numbered from 1. The whole grammar, with its limits, is in
//! `tests/guests/README.md`. [`Service`] does no input or output; [`serve`] joins it to a byte
//! stream. The terminal is put into raw mode by `/init`, which needs no system call of our own.

use std::io::{self, Read, Write};

use crate::chain::{Chain, Offered};
use crate::hex;

/// Longest payload of a request, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 4096;

/// `REQ `, twenty digits, a space, the payload's digits, a carriage return.
const MAX_LINE_BYTES: usize = 4 + 20 + 1 + 2 * MAX_PAYLOAD_BYTES + 1;

/// What the host asks for in one line.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Hello,
    Link { number: u64, payload: Vec<u8> },
}

/// The service's state: a chain, and the line being received.
pub struct Service {
    chain: Chain,
    line: Vec<u8>,
    /// The line is longer than any request; its bytes are dropped until it ends.
    line_too_long: bool,
}

impl Service {
    /// A service that has answered nothing.
    pub fn new() -> Self {
        Self {
            chain: Chain::new(),
            line: Vec::new(),
            line_too_long: false,
        }
    }

    /// Takes one received byte; returns the reply, with its newline, when a line is complete.
    pub fn receive(&mut self, byte: u8) -> Option<String> {
        if byte != b'\n' {
            self.line_too_long |= self.line.len() == MAX_LINE_BYTES;
            if !self.line_too_long {
                self.line.push(byte);
            }
            return None;
        }
        let line = std::mem::take(&mut self.line);
        let too_long = std::mem::take(&mut self.line_too_long);
        let request = if too_long { None } else { parse(&line) };
        Some(request.map_or_else(
            || "ERR syntax\n".to_string(),
            |request| self.answer(&request),
        ))
    }

    fn answer(&mut self, request: &Request) -> String {
        let (number, payload) = match request {
            Request::Hello => {
                let head = hex::encode(&self.chain.head());
                return format!("HELLO {} {head}\n", self.chain.last());
            }
            Request::Link { number, payload } => (number, payload),
        };
        match self.chain.offer(*number, payload) {
            Offered::Value(value) => format!("REP {number} {}\n", hex::encode(&value)),
            Offered::Gap { expected } => format!("ERR {number} expected {expected}\n"),
            Offered::Forgotten => format!("ERR {number} forgotten\n"),
        }
    }
}

/// Answers requests from `input` on `output` until the input ends.
///
/// # Errors
///
/// The first error that reading or writing meets, interruptions apart.
pub fn serve(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut service = Service::new();
    let mut bytes = [0; 4096];
    loop {
        let count = match input.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for &byte in &bytes[..count] {
            if let Some(reply) = service.receive(byte) {
                output.write_all(reply.as_bytes())?;
                output.flush()?;
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<Request> {
    // A terminal program may end its lines with CR LF.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line == b"HELLO" {
        return Some(Request::Hello);
    }
    let rest = line.strip_prefix(b"REQ ")?;
    let space = rest.iter().position(|&byte| byte == b' ')?;
    let number = parse_number(&rest[..space])?;
    let payload = hex::decode(&rest[space + 1..])?;
    (payload.len() <= MAX_PAYLOAD_BYTES).then_some(Request::Link { number, payload })
}

/// A decimal number from 1, without sign or leading zeros: one spelling for each number.
fn parse_number(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) || text.first() == Some(&b'0') {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{HISTORY_LENGTH, link};

    fn talk(input: &[u8]) -> Vec<String> {
        let mut output = Vec::new();
        serve(input, &mut output).unwrap();
        String::from_utf8(output)
            .unwrap()
            .lines()
            .map(str::to_string)
            .collect()
    }

    #[test]
    fn requests_are_answered_with_the_chain() {
        let one = link(&[0; 32], 1, &[0xab, 0xcd]);
        let two = link(&one, 2, &[]);
        let replies = talk(b"HELLO\nREQ 1 abCD\nREQ 2 \nHELLO\r\nREQ 1 00\n");
        let (one, two) = (hex::encode(&one), hex::encode(&two));
        let expected = [
            format!("HELLO 0 {}", "0".repeat(64)),
            format!("REP 1 {one}"),
            format!("REP 2 {two}"),
            format!("HELLO 2 {two}"),
            format!("REP 1 {one}"),
        ];
        assert_eq!(replies, expected);
    }

    #[test]
    fn a_gap_is_answered_with_the_expected_number() {
        let replies = talk(b"REQ 3 00\nREQ 1 00\nREQ 18446744073709551615 00\n");
        assert_eq!(replies[0], "ERR 3 expected 1");
        assert_eq!(replies[2], "ERR 18446744073709551615 expected 2");
    }

    #[test]
    fn a_request_beyond_the_history_is_forgotten() {
        let total = HISTORY_LENGTH + 1;
        let mut input: String = (1..=total).map(|n| format!("REQ {n} 55\n")).collect();
        input.push_str("REQ 1 55\nREQ 2 55\n");
        let replies = talk(input.as_bytes());
        assert_eq!(replies[total], "ERR 1 forgotten");
        assert_eq!(replies[total + 1], replies[1]);
    }

    #[test]
    fn garbled_lines_are_syntax_errors_and_change_nothing() {
        let lines: [&[u8]; 16] = [
            b"",
            b" ",
            b"\r",
            b"REQ",
            b"REQ 1",
            b"REQ  1 00",
            b"REQ 1 0",
            b"REQ 1 0g",
            b"REQ 0 00",
            b"REQ 01 00",
            b"REQ +1 00",
            b"REQ -1 00",
            b"REQ 18446744073709551616 00",
            b"hello",
            b"\xff\x00HELLO",
            b"REQ 1 ab!",
        ];
        for line in lines {
            let input = [line, b"\nHELLO\n"].concat();
            let expected = [
                "ERR syntax".to_string(),
                format!("HELLO 0 {}", "0".repeat(64)),
            ];
            assert_eq!(talk(&input), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn the_longest_request_is_taken_and_a_longer_line_is_one_syntax_error() {
        let payload = "5a".repeat(MAX_PAYLOAD_BYTES);
        let input =
            format!("REQ 1 {payload}\nREQ 2 {payload}00\nREQ 2 {payload}{payload}\nHELLO\n");
        let replies = talk(input.as_bytes());
        let head = hex::encode(&link(&[0; 32], 1, &[0x5a; MAX_PAYLOAD_BYTES]));
        let syntax = "ERR syntax".to_string();
        let expected = [
            format!("REP 1 {head}"),
            syntax.clone(),
            syntax,
            format!("HELLO 1 {head}"),
        ];
        assert_eq!(replies, expected);
    }

    #[test]
    fn a_line_without_its_end_is_not_answered() {
        assert!(talk(b"HELLO").is_empty());
    }

    #[test]
    fn a_failing_output_ends_the_service_with_its_error() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = serve(&b"HELLO\n"[..], Broken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
