//! A primary whose host cannot read a part of the machine, as a bad sector of a disk.
//!
//! What cannot be read counts as zeroes. A backup that has a good copy must not be made equal to
//! that: it takes over instead. A backup that may not have everything yet is let go.

use crate::failover::Suspicion;
use crate::primary::Primary;
use crate::status::{End, FtEvent};
use crate::time::HostTime;

impl Primary {
    /// A page that was to be digested or sent cannot be read; nothing of it was told to anybody.
    pub(super) fn on_unreadable(&mut self, text: String, now: HostTime) {
        let Some(protection) = self.protection.as_deref_mut() else {
            if self.sink.take().is_some() {
                self.events.push(FtEvent::RecordingFailed { reason: text });
            }
            return;
        };
        if !protection.phase.is_logged() {
            // The backup makes nothing of this side any more, or has not begun to.
            return;
        }
        if protection.unconfirmed.is_some() {
            return self.suspect(Suspicion::Unreadable(text), now);
        }
        protection.link.close();
        self.end = Some(End::Failed(text));
    }
}
