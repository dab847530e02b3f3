//! How far a migration is, for whoever asks while it goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use api_client::types::{MigrationInfo, MigrationState};

/// What a migration has done; shared by all who take part in it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    state: Mutex<(MigrationState, Option<String>)>,
    round: AtomicU64,
    sent_bytes: AtomicU64,
    sent_pages: AtomicU64,
    left_pages: AtomicU64,
    downtime_us: AtomicU64,
    ended_ms: AtomicU64,
}

impl Progress {
    /// Nothing yet.
    pub fn new(state: MigrationState) -> Self {
        Self(Arc::new(Shared {
            begun: Instant::now(),
            state: Mutex::new((state, None)),
            round: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            sent_pages: AtomicU64::new(0),
            left_pages: AtomicU64::new(0),
            downtime_us: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
        }))
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.0.begun
    }

    /// It goes on in another way.
    pub fn enter(&self, state: MigrationState) {
        self.set(state, None);
    }

    /// It is over; `reason` tells why it failed.
    pub fn end(&self, state: MigrationState, reason: Option<String>) {
        let ms = self.0.begun.elapsed().as_millis() as u64;
        self.0.ended_ms.store(ms.max(1), Ordering::Relaxed);
        self.set(state, reason);
    }

    fn set(&self, state: MigrationState, reason: Option<String>) {
        let mut place = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        *place = (state, reason);
    }

    /// What it is doing.
    pub fn state(&self) -> MigrationState {
        self.0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// A round of so many pages begins.
    pub fn round(&self, round: u64, pages: usize) {
        self.0.round.store(round, Ordering::Relaxed);
        self.0.left_pages.store(pages as u64, Ordering::Relaxed);
    }

    /// Some pages are on their way.
    pub fn sent(&self, pages: usize, bytes: u64) {
        let pages = pages as u64;
        self.0.sent_pages.fetch_add(pages, Ordering::Relaxed);
        self.0.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        let left = &self.0.left_pages;
        left.store(
            left.load(Ordering::Relaxed).saturating_sub(pages),
            Ordering::Relaxed,
        );
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.load(Ordering::Relaxed)
    }

    /// The guest stood still for so long.
    pub fn paused_for(&self, us: u64) {
        self.0.downtime_us.store(us, Ordering::Relaxed);
    }

    /// As `vm.info` shows it.
    pub fn info(&self) -> MigrationInfo {
        let shared = &self.0;
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let downtime_us = get(&shared.downtime_us);
        let elapsed_ms = match get(&shared.ended_ms) {
            0 => shared.begun.elapsed().as_millis() as u64,
            ended => ended,
        };
        MigrationInfo {
            state: state.0,
            reason: state.1.clone(),
            round: get(&shared.round),
            transferred_bytes: get(&shared.sent_bytes),
            transferred_pages: get(&shared.sent_pages),
            remaining_pages: get(&shared.left_pages),
            elapsed_ms,
            downtime_us: (downtime_us > 0).then_some(downtime_us),
        }
    }
}
