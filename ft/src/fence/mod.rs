//! Fences: who may be primary is settled by an atomic test-and-set of the generation.
//!
//! A generation can be *claimed* once. Whoever wants to act as primary without its peer claims the
//! next one; the other's claim then fails and it halts itself. Both may try at the same moment,
//! either may be stopped at any point, and a claim may be repeated by its owner.
//!
//! A backup that *relieves* its primary, as planned, claims in a weaker way: it will let nothing go
//! before the other, by then its backup, has acknowledged it, and to act alone it claims once more.
//! So a primary that has asked to be relieved, and then finds its backup gone with such a claim,
//! may claim the generation after it: no output can have left in between.

mod file;

use std::io;

use crate::time::Generation;

pub use file::FileFence;

/// What a claim entitles to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// To be the one that is live, with or without a backup.
    Live,
    /// To relieve a primary that has asked for it, and to let outputs go only by a lease that this
    /// one grants from then on.
    Relief,
}

/// Who has claimed a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The generation.
    pub generation: Generation,
    /// Name of the claimant.
    pub owner: String,
    /// What for.
    pub kind: ClaimKind,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The generation is the claimant's.
    Won,
    /// It, or a later one, is someone else's.
    Lost(Claim),
    /// Not settled yet; ask again.
    Pending,
}

/// Settles who is primary.
pub trait Fence: Send {
    /// The fence as the operator writes it.
    fn describe(&self) -> String;

    /// The latest claim, if there is any.
    ///
    /// # Errors
    /// If the fence cannot be asked.
    fn current(&mut self) -> Result<Option<Claim>, FenceError>;

    /// Makes a claim, provided that nothing later than `from` is claimed. Repeating a claim that
    /// was won, of the same kind, wins again.
    ///
    /// # Errors
    /// If the fence cannot be asked; whether the claim stands is then unknown, and only repeating
    /// it tells.
    fn claim(&mut self, from: Generation, claim: &Claim) -> Result<Verdict, FenceError>;

    /// Whether both sides see the same claims, so that one can check the other's.
    fn is_shared(&self) -> bool {
        true
    }
}

/// A fence cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("fence {fence}: {action}: {source}")]
pub struct FenceError {
    /// Which fence.
    pub fence: String,
    /// What was tried.
    pub action: &'static str,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// No fence: every claim is won. Two machines may be live after a network partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFence;

impl Fence for NoFence {
    fn describe(&self) -> String {
        "none".into()
    }

    fn current(&mut self) -> Result<Option<Claim>, FenceError> {
        Ok(None)
    }

    fn claim(&mut self, _: Generation, _: &Claim) -> Result<Verdict, FenceError> {
        Ok(Verdict::Won)
    }

    fn is_shared(&self) -> bool {
        false
    }
}
