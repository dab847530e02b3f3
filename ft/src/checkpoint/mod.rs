//! Epochs that are closed by a delta: what was written, instead of what was done.
//!
//! ```text
//!   primary    ──── epoch n ────┤copy├──── epoch n + 1 ────────────┤copy├────
//!                                 └▶ encode, send between slices
//!                                    Delta* · Held* · Sections* · Commit ─▶ backup
//!   backup                            staged ... complete ─▶ applied, digested, acknowledged
//! ```
//!
//! At the end of an epoch the primary copies the pages written in it and the sections aside, which
//! is all that the guest stands still for. The copy is encoded and sent in steps between the
//! guest's slices. What the guest has put out in the epoch waits until the backup has all of the
//! delta. The backup executes nothing. It keeps a delta until all of it is there and sets it as a
//! whole, so that it can always go on from the end of an epoch; what came of an epoch whose delta
//! is not complete the world has not seen.
//!
//! * [`capture`](self::capture): what is copied aside.
//! * [`pages`](self::pages): the byte form of the pages: not at all, as the difference from what
//!   the backup has, or as they are.
//! * [`sections`](self::sections): the byte form of the sections that have changed.
//! * [`sent`](self::sent): what the backup has of the pages that were sent last, within a bound.
//! * [`interval`](self::interval): when an epoch is closed before its time.

pub(crate) mod capture;
pub(crate) mod interval;
pub(crate) mod pages;
pub(crate) mod sections;
pub(crate) mod sent;
pub mod status;

/// Most pages of a delta, which a backup keeps until it has all of it: 256 MiB.
pub const MAX_DELTA_PAGES: usize = 64 << 10;
