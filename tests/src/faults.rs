//! Faults that end a protection, drawn by a seed, and what has to be left of a pair after each:
//! one side that is live and alone, and no other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::HarnessError;
use crate::process::wait_until;
use crate::proxy::{Order, Proxy, Way};
use crate::random::Random;
use crate::scenario::{Pair, Protection};

/// How long a pair may take until one side is alone.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// How long an old primary may take to learn that its backup is live.
const LEARNS_WITHIN: Duration = Duration::from_secs(1);
/// Most microseconds between the order to swap roles and the kill of one side.
const SWAP_US: u64 = 60_000;

/// What happens to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the primary.
    KillPrimary,
    /// SIGKILL to the backup.
    KillBackup,
    /// SIGSTOP to the primary until the backup is live, then SIGCONT.
    StopPrimary,
    /// SIGSTOP to the backup until the primary is alone, then SIGCONT.
    StopBackup,
    /// The connection suffers this, in one direction.
    Link(Way, Order),
    /// Nothing more is heard in these directions.
    Silence(&'static [Way]),
    /// A planned failover, and SIGKILL to the old primary after so many microseconds.
    SwapAndKillOld(u64),
    /// A planned failover, and SIGKILL to the backup after so many microseconds.
    SwapAndKillNew(u64),
}

impl Fault {
    /// One of them, each about as likely.
    pub fn draw(random: &mut Random) -> Self {
        let way = [Way::Forth, Way::Back][(random.number() % 2) as usize];
        match random.number() % 11 {
            0 | 1 => Self::KillPrimary,
            2 => Self::KillBackup,
            3 => Self::StopPrimary,
            4 => Self::StopBackup,
            5 => Self::Link(way, Order::Close),
            6 => Self::Link(way, Order::Reset),
            7 => Self::Link(way, Order::Flip),
            8 => Self::Link(way, Order::Truncate),
            9 => match random.number() % 3 {
                0 => Self::Silence(&[Way::Forth]),
                1 => Self::Silence(&[Way::Back]),
                _ => Self::Silence(&[Way::Forth, Way::Back]),
            },
            _ if random.number().is_multiple_of(2) => {
                Self::SwapAndKillOld(random.number() % SWAP_US)
            }
            _ => Self::SwapAndKillNew(random.number() % SWAP_US),
        }
    }
}

/// How a pair has settled.
#[derive(Debug)]
pub struct Settled {
    /// Whether the backup went live.
    pub promoted: bool,
    /// The last status of the side that ended.
    pub loser: Value,
}

fn broken(text: String) -> HarnessError {
    HarnessError::Broken(text)
}

impl Pair {
    /// Protects the guest over a connection that can be disturbed.
    ///
    /// # Errors
    /// When it cannot be protected.
    pub fn protect_by_proxy(&mut self, protection: &Protection) -> Result<Proxy, HarnessError> {
        let url = self.start_backup("tcp")?;
        let proxy = Proxy::start(&url, Order::Pass)?;
        let body = self.start_body(protection, &proxy.url());
        self.primary.put("vm.ft-start", &body)?;
        Ok(proxy)
    }

    /// Does `fault` to the pair and waits until the guest runs on one side and on no other: on
    /// [`Pair::primary`] when this returns.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn suffer(&mut self, fault: Fault, proxy: &Proxy) -> Result<(), HarnessError> {
        match fault {
            Fault::KillPrimary => {
                self.primary.kill()?;
                return self.go_on_with_backup();
            }
            Fault::KillBackup => {
                self.lose_backup()?;
                return self.go_on_alone();
            }
            Fault::StopPrimary => {
                self.primary.signal("STOP")?;
                self.other()?
                    .wait_for("live", &json!(true), SETTLES_WITHIN)?;
                self.primary.signal("CONT")?;
            }
            Fault::StopBackup => {
                self.other()?.signal("STOP")?;
                self.go_on_alone()?;
                self.other()?.signal("CONT")?;
            }
            Fault::Link(way, order) => proxy.order(way, order),
            Fault::Silence(ways) => {
                for way in ways {
                    proxy.order(*way, Order::Hold(0));
                }
            }
            Fault::SwapAndKillOld(after_us) => {
                self.primary
                    .put("vm.ft-failover", &json!({"planned": true}))?;
                std::thread::sleep(Duration::from_micros(after_us));
                self.primary.kill()?;
                return self.go_on_with_backup();
            }
            Fault::SwapAndKillNew(after_us) => {
                self.primary
                    .put("vm.ft-failover", &json!({"planned": true}))?;
                std::thread::sleep(Duration::from_micros(after_us));
                self.lose_backup()?;
                return self.go_on_alone();
            }
        }
        self.settle().map(|_| ())
    }

    /// Waits until one side is live and alone and the other has ended; the one that is live is the
    /// primary from then on, and the other is gone.
    ///
    /// For a moment both may say that they are live: an old primary to which heartbeats still come
    /// lets nothing go once its lease is over, but learns of the claim only a little later.
    ///
    /// # Errors
    /// When it does not come to that, or both are live for longer, or the loser does not say why.
    pub fn settle(&mut self) -> Result<Settled, HarnessError> {
        let mut states = [Value::Null, Value::Null];
        let mut both_live_since = None;
        let waited = wait_until("one live side and an ended one", SETTLES_WITHIN, || {
            states = [self.primary.ft_status()?, self.other()?.ft_status()?];
            let count = |member: &str, value: Value| {
                let states = states.iter();
                states.filter(|state| state[member] == value).count()
            };
            let (live, ended) = (count("live", json!(true)), count("role", json!("ended")));
            if live < 2 {
                both_live_since = None;
                return Ok((live, ended) == (1, 1));
            }
            let since = *both_live_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= LEARNS_WITHIN {
                return Err(broken("two live machines".to_owned()));
            }
            Ok(false)
        });
        waited.map_err(|error| broken(format!("{error}: {states:?}")))?;
        let promoted = states[1]["live"] == true;
        let [primary, backup] = states;
        let loser = if promoted { primary } else { backup };
        if loser["error"].as_str().unwrap_or_default().is_empty() {
            return Err(broken(format!("the loser does not say why: {loser}")));
        }
        let backup = self.backup.take();
        if let Some(backup) = backup.filter(|_| promoted) {
            self.primary = backup;
        }
        self.go_on_alone()?;
        Ok(Settled { promoted, loser })
    }

    fn lose_backup(&mut self) -> Result<(), HarnessError> {
        self.other()?;
        match self.backup.take() {
            Some(mut backup) => backup.kill(),
            None => Ok(()),
        }
    }

    fn go_on_with_backup(&mut self) -> Result<(), HarnessError> {
        self.promote()?;
        self.go_on_alone()
    }

    /// Waits until the primary is live without a backup.
    fn go_on_alone(&self) -> Result<(), HarnessError> {
        let mut status = Value::Null;
        let waited = wait_until("a primary that is alone", SETTLES_WITHIN, || {
            status = self.primary.ft_status()?;
            Ok(status["live"] == true && status["role"] == "unprotected")
        });
        waited.map_err(|error| broken(format!("{error}: {status}")))
    }
}
