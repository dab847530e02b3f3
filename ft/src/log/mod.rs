//! The event log: its entries, and the offline container that holds it with a starting snapshot.
//!
//! The same entries stream from a primary to its backup ([`crate::protocol`]) and fill a log file
//! ([`writer`], [`reader`]); only [`entry`] and [`mod@format`] know their bytes.

pub mod entry;
pub mod format;
pub mod reader;
pub mod writer;

pub use entry::{Entry, EntryCoder, EntryKind, Event};
pub use format::{LogError, LogHeader};
pub use reader::{LogReader, Tail};
pub use writer::LogWriter;
