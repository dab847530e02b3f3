//! A fence that all hosts share, and that can fail for each of them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ft::fence::{Claim, ClaimKind, Fence, FenceError, Verdict};
use ft::time::Generation;

/// Claims so far, and which hosts cannot reach them.
#[derive(Debug, Default)]
pub struct Claims {
    latest: Option<Claim>,
    reliefs: Vec<Generation>,
    unreachable: Vec<String>,
    mute: Vec<String>,
}

impl Claims {
    /// Makes a claim, if nothing stands in its way.
    fn claim(&mut self, from: Generation, claim: &Claim) -> Verdict {
        match &self.latest {
            Some(latest) if latest == claim => Verdict::Won,
            Some(latest) if latest.generation > from => Verdict::Lost(latest.clone()),
            _ => {
                self.latest = Some(claim.clone());
                if claim.kind == ClaimKind::Relief {
                    self.reliefs.push(claim.generation);
                }
                Verdict::Won
            }
        }
    }
}

/// The storage behind the fences.
#[derive(Clone, Debug, Default)]
pub struct FenceStore(Arc<Mutex<Claims>>);

impl FenceStore {
    /// The fence as a host sees it.
    pub fn fence(&self, host: &str) -> Box<dyn Fence> {
        Box::new(SharedFence {
            store: self.clone(),
            host: host.to_owned(),
        })
    }

    /// Makes the fence fail for a host, or work again.
    pub fn set_unreachable(&self, host: &str, unreachable: bool) {
        let mut claims = self.lock();
        claims.unreachable.retain(|name| name != host);
        if unreachable {
            claims.unreachable.push(host.to_owned());
        }
    }

    /// Makes the fence report an error to a host after it has done what was asked, or not any more.
    pub fn set_mute(&self, host: &str, mute: bool) {
        let mut claims = self.lock();
        claims.mute.retain(|name| name != host);
        if mute {
            claims.mute.push(host.to_owned());
        }
    }

    /// Whether its answers do not come through to a host.
    pub fn is_mute(&self, host: &str) -> bool {
        self.lock().mute.iter().any(|name| name == host)
    }

    /// Whether it fails for a host.
    pub fn is_unreachable(&self, host: &str) -> bool {
        self.lock().unreachable.iter().any(|name| name == host)
    }

    /// The latest claim.
    pub fn latest(&self) -> Option<Claim> {
        self.lock().latest.clone()
    }

    /// Whether a generation was claimed by a backup that relieves its primary.
    pub fn is_relief(&self, generation: Generation) -> bool {
        self.lock().reliefs.contains(&generation)
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host's view.
struct SharedFence {
    store: FenceStore,
    host: String,
}

impl SharedFence {
    fn reach(&self, action: &'static str) -> Result<(), FenceError> {
        if !self.store.is_unreachable(&self.host) {
            return Ok(());
        }
        Err(self.error(action, io::ErrorKind::PermissionDenied))
    }

    fn error(&self, action: &'static str, kind: io::ErrorKind) -> FenceError {
        FenceError {
            fence: self.describe(),
            action,
            source: io::Error::from(kind),
        }
    }
}

impl Fence for SharedFence {
    fn describe(&self) -> String {
        "simulated".into()
    }

    fn current(&mut self) -> Result<Option<Claim>, FenceError> {
        self.reach("read")?;
        Ok(self.store.latest())
    }

    fn claim(&mut self, from: Generation, claim: &Claim) -> Result<Verdict, FenceError> {
        self.reach("claim")?;
        let verdict = self.store.lock().claim(from, claim);
        // What the fence has done stands, whether or not its answer comes through.
        if self.store.is_mute(&self.host) {
            return Err(self.error("claim", io::ErrorKind::TimedOut));
        }
        Ok(verdict)
    }
}
