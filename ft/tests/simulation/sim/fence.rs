//! A fence that all hosts share, and that can fail for each of them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ft::fence::{Claim, Fence, FenceError, Verdict};
use ft::time::Generation;

/// Claims so far, and which hosts cannot reach them.
#[derive(Debug, Default)]
pub struct Claims {
    latest: Option<Claim>,
    unreachable: Vec<String>,
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

    /// Whether it fails for a host.
    pub fn is_unreachable(&self, host: &str) -> bool {
        self.lock().unreachable.iter().any(|name| name == host)
    }

    /// The latest claim.
    pub fn latest(&self) -> Option<Claim> {
        self.lock().latest.clone()
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
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        Err(FenceError {
            fence: self.describe(),
            action,
            source,
        })
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

    fn claim(
        &mut self,
        from: Generation,
        to: Generation,
        owner: &str,
    ) -> Result<Verdict, FenceError> {
        self.reach("claim")?;
        let mut claims = self.store.lock();
        match &claims.latest {
            Some(latest) if latest.generation > from => {
                let ours = latest.generation == to && latest.owner == owner;
                Ok(if ours {
                    Verdict::Won
                } else {
                    Verdict::Lost(latest.clone())
                })
            }
            _ => {
                claims.latest = Some(Claim {
                    generation: to,
                    owner: owner.to_owned(),
                });
                Ok(Verdict::Won)
            }
        }
    }
}
