//! Clients that keep their connections: each makes numbered requests one after the other over one
//! TCP connection, and remembers what was acknowledged.
//!
//! No client ever connects anew. A connection that breaks ends its client, and what it says then
//! is what the test fails with.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::HarnessError;
use crate::network::GUEST;
use crate::process::wait_until;

/// How long a reply may take before the connection counts as lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a client that rests looks whether it shall go on.
const REST: Duration = Duration::from_millis(2);

/// A connection of one client.
pub trait Session: Send {
    /// Makes the request of that number; returns once the server has acknowledged it.
    ///
    /// # Errors
    /// When the connection breaks, or the server answers something else.
    fn request(&mut self, number: u64) -> Result<(), HarnessError>;

    /// The longest silence of the server in the last request, where that is less than all of it.
    fn longest_silence(&self) -> Option<Duration> {
        None
    }
}

/// A server that takes numbered requests.
pub trait Service: Sync {
    /// Its name on the guest's command line.
    fn name(&self) -> &'static str;

    /// Makes it ready for requests, once.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses.
    fn prepare(&self) -> Result<(), HarnessError>;

    /// The connection of one client.
    ///
    /// # Errors
    /// When there is none to be had.
    fn connect(&self, client: usize) -> Result<Box<dyn Session>, HarnessError>;

    /// How many requests are gone, of those that were acknowledged: client `i` had numbers 1 to
    /// `acknowledged[i]`. Asks over a connection of its own.
    ///
    /// # Errors
    /// When it cannot be reached, or its contents contradict each other.
    fn missing(&self, acknowledged: &[u64]) -> Result<u64, HarnessError>;
}

/// A TCP connection to the guest, with bounds on how long it may be silent.
pub type Connection = BufReader<TcpStream>;

/// Connects to a port of the guest.
///
/// # Errors
/// When nobody answers.
pub fn connect(port: u16) -> Result<Connection, HarnessError> {
    let address = SocketAddr::from((GUEST, port));
    let connected = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(BufReader::new(stream))
    });
    connected.map_err(HarnessError::host(format!("connect to {address}")))
}

/// Sends `bytes` over a connection.
///
/// # Errors
/// When it breaks.
pub fn send(connection: &mut Connection, bytes: &[u8]) -> Result<(), HarnessError> {
    let sent = connection.get_mut().write_all(bytes);
    sent.map_err(HarnessError::host("send a request"))
}

/// Fills `bytes` from a connection.
///
/// # Errors
/// When it breaks, or nothing comes for too long.
pub fn receive(connection: &mut Connection, bytes: &mut [u8]) -> Result<(), HarnessError> {
    let received = connection.read_exact(bytes);
    received.map_err(HarnessError::host("receive a reply"))
}

/// What one client has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Number of its last request that was acknowledged.
    pub acknowledged: u64,
    /// How long each took, in microseconds.
    pub latencies_us: Vec<u64>,
    /// Longest silence of the server while it was waited for, in microseconds.
    pub longest_stall_us: u64,
    /// The same since [`Traffic::take_stall_us`].
    recent_stall_us: u64,
    /// Why its connection is not there any more.
    pub lost: Option<String>,
}

const GOING: u8 = 0;
const RESTING: u8 = 1;
const ENDED: u8 = 2;

/// Clients at work.
pub struct Traffic {
    clients: Vec<(Arc<Mutex<Seen>>, JoinHandle<()>)>,
    order: Arc<AtomicU8>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Connects so many clients to `service`; they rest until [`Traffic::go`].
    ///
    /// # Errors
    /// When one cannot connect.
    pub fn start(service: &dyn Service, count: usize) -> Result<Self, HarnessError> {
        let mut traffic = Self {
            clients: Vec::new(),
            order: Arc::new(AtomicU8::new(RESTING)),
        };
        for client in 0..count {
            let session = service.connect(client)?;
            let seen = Arc::new(Mutex::new(Seen::default()));
            let (own, order) = (seen.clone(), traffic.order.clone());
            let thread = std::thread::Builder::new()
                .name(format!("client-{client}"))
                .spawn(move || work(session, &own, &order))
                .map_err(HarnessError::host("start a client"))?;
            traffic.clients.push((seen, thread));
        }
        Ok(traffic)
    }

    /// Lets the clients make requests.
    pub fn go(&self) {
        self.order.store(GOING, Ordering::Relaxed);
    }

    /// Lets the clients rest after the requests that are under way.
    pub fn rest(&self) {
        self.order.store(RESTING, Ordering::Relaxed);
    }

    /// What each client has had acknowledged.
    pub fn acknowledged(&self) -> Vec<u64> {
        let clients = self.clients.iter();
        clients.map(|(seen, _)| lock(seen).acknowledged).collect()
    }

    /// Waits until every client has `count` more requests acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `timeout`, or a client has lost its connection.
    pub fn more(&self, count: u64, timeout: Duration) -> Result<(), HarnessError> {
        let targets: Vec<u64> = self.acknowledged().iter().map(|had| had + count).collect();
        wait_until("further replies on every connection", timeout, || {
            self.check()?;
            let now = self.acknowledged();
            Ok(now.iter().zip(&targets).all(|(now, target)| now >= target))
        })
    }

    /// Says whether a client has lost its connection.
    ///
    /// # Errors
    /// What the first such client was told.
    pub fn check(&self) -> Result<(), HarnessError> {
        for (client, (seen, _)) in self.clients.iter().enumerate() {
            if let Some(reason) = &lock(seen).lost {
                let text = format!("connection {client} is lost: {reason}");
                return Err(HarnessError::Broken(text));
            }
        }
        Ok(())
    }

    /// Requests per second of all clients together, over `time`; longer if it takes longer until
    /// every client has a reply.
    ///
    /// # Errors
    /// When a client has lost its connection, or has no reply for too long.
    pub fn rate(&self, time: Duration) -> Result<f64, HarnessError> {
        let (begun, before) = (Instant::now(), self.acknowledged().iter().sum::<u64>());
        self.more(1, REPLY_TIMEOUT)?;
        std::thread::sleep(time.saturating_sub(begun.elapsed()));
        let after = self.acknowledged().iter().sum::<u64>();
        self.check()?;
        Ok((after - before) as f64 / begun.elapsed().as_secs_f64())
    }

    /// The longest silence of the server since this was asked last, in microseconds. Requests that
    /// are under way count once they are answered.
    pub fn take_stall_us(&self) -> u64 {
        let stalls = self
            .clients
            .iter()
            .map(|(seen, _)| std::mem::take(&mut lock(seen).recent_stall_us));
        stalls.max().unwrap_or(0)
    }

    /// Ends the clients; returns what each has seen.
    pub fn finish(mut self) -> Vec<Seen> {
        self.end();
        let clients = std::mem::take(&mut self.clients);
        let seen = clients.into_iter().map(|(seen, thread)| {
            let panicked = thread.join().is_err();
            let mut seen = lock(&seen).clone();
            if panicked {
                seen.lost = Some("the client panicked".to_owned());
            }
            seen
        });
        seen.collect()
    }

    fn end(&self) {
        self.order.store(ENDED, Ordering::Relaxed);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

fn work(mut session: Box<dyn Session>, seen: &Mutex<Seen>, order: &AtomicU8) {
    let mut number = 0;
    loop {
        match order.load(Ordering::Relaxed) {
            GOING => {}
            RESTING => {
                std::thread::sleep(REST);
                continue;
            }
            _ => return,
        }
        number += 1;
        let begun = Instant::now();
        let answered = session.request(number);
        let mut seen = lock(seen);
        match answered {
            Ok(()) => {
                let taken = begun.elapsed();
                let stall = session.longest_silence().unwrap_or(taken);
                seen.acknowledged = number;
                seen.latencies_us.push(taken.as_micros() as u64);
                let stall_us = stall.as_micros() as u64;
                seen.longest_stall_us = seen.longest_stall_us.max(stall_us);
                seen.recent_stall_us = seen.recent_stall_us.max(stall_us);
            }
            Err(error) => {
                seen.lost = Some(format!("request {number}: {error}"));
                return;
            }
        }
    }
}
