//! Stands between a primary and its backup and does to their bytes what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::HarnessError;
use crate::process::wait_until;

/// How often a direction looks for orders while nothing comes.
const LOOK: Duration = Duration::from_millis(2);
/// How long it may take until an order is seen and all that it lets through has come.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the primary.
    Forth,
    /// To it.
    Back,
}

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// They go on.
    Pass,
    /// They go on until so many have, then no more do; the connection stays open.
    Hold(usize),
    /// One bit of the next ones is turned over.
    Flip,
    /// Half of the next ones go on, and the connection is closed.
    Truncate,
    /// The head of a frame larger than any is put in front of the next ones.
    Oversize,
    /// Both directions are closed.
    Close,
    /// Both directions are reset: the sockets are closed while bytes in them wait to be read.
    Reset,
}

struct Shared {
    orders: [Order; 2],
    passed: [usize; 2],
    /// Whether a direction has seen that it has to hold everything back.
    held: [bool; 2],
    done: bool,
}

/// A connection that can be disturbed.
pub struct Proxy {
    address: String,
    shared: Arc<Mutex<Shared>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens for one primary and connects it to the backup at `url`.
    ///
    /// # Errors
    /// When `url` is no TCP address, or the host refuses.
    pub fn start(url: &Value, forth: Order) -> Result<Self, HarnessError> {
        let backup = url.as_str().and_then(|url| url.strip_prefix("tcp:"));
        let backup = backup.ok_or_else(|| HarnessError::Broken(format!("{url} is not tcp:")))?;
        let backup = backup.to_owned();
        let failed = HarnessError::host("listen for a primary");
        let listener = TcpListener::bind("127.0.0.1:0");
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(failed)?;
        let shared = Arc::new(Mutex::new(Shared {
            orders: [forth, Order::Pass],
            passed: [0, 0],
            held: [false; 2],
            done: false,
        }));
        let own = shared.clone();
        std::thread::spawn(move || {
            if let Err(error) = join(&listener, &backup, &own) {
                eprintln!("the connection between a pair: {error}");
                lock(&own).done = true;
            }
        });
        Ok(Self {
            address: address.to_string(),
            shared,
        })
    }

    /// Where the primary has to connect to.
    pub fn url(&self) -> Value {
        json!(format!("tcp:{}", self.address))
    }

    /// Orders what happens to bytes that go one way from now on.
    pub fn order(&self, way: Way, order: Order) {
        let mut shared = lock(&self.shared);
        let order = match order {
            Order::Hold(more) => Order::Hold(shared.passed[way as usize] + more),
            order => order,
        };
        shared.orders[way as usize] = order;
        shared.held[way as usize] = false;
    }

    /// Holds back all bytes that go one way; when this returns, no more will go on until the next
    /// order.
    ///
    /// # Errors
    /// When nobody is there who could hold them.
    pub fn hold(&self, way: Way) -> Result<(), HarnessError> {
        self.order(way, Order::Hold(0));
        self.wait_until_held(way)
    }

    /// Waits until an order to hold bytes back has been reached.
    ///
    /// # Errors
    /// When too few bytes come, or nobody is there who could hold them.
    pub fn wait_until_held(&self, way: Way) -> Result<(), HarnessError> {
        wait_until("bytes to be held", PATIENCE, || {
            Ok(lock(&self.shared).held[way as usize])
        })
    }

    /// Bytes that went one way so far.
    pub fn passed(&self, way: Way) -> usize {
        lock(&self.shared).passed[way as usize]
    }
}

/// Accepts the primary, connects to the backup and starts both directions.
fn join(listener: &TcpListener, backup: &str, shared: &Arc<Mutex<Shared>>) -> std::io::Result<()> {
    let (primary, _) = listener.accept()?;
    let backup = TcpStream::connect(backup)?;
    for stream in [&primary, &backup] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let ends = [primary, backup].map(Arc::new);
    for way in [Way::Forth, Way::Back] {
        let (shared, [primary, backup]) = (shared.clone(), ends.clone());
        std::thread::spawn(move || match way {
            Way::Forth => pump(&shared, way, &primary, &backup),
            Way::Back => pump(&shared, way, &backup, &primary),
        });
    }
    Ok(())
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared).done = true;
    }
}

/// Takes bytes from one end to the other until either is closed.
fn pump(shared: &Mutex<Shared>, way: Way, from: &TcpStream, to: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (order, passed) = {
            let shared = lock(shared);
            if shared.done {
                break;
            }
            (shared.orders[way as usize], shared.passed[way as usize])
        };
        let room = match order {
            Order::Hold(most) => most.saturating_sub(passed),
            Order::Close => break,
            Order::Reset => {
                // Bytes that nobody reads gather; closing then resets.
                std::thread::sleep(Duration::from_millis(30));
                lock(shared).done = true;
                return;
            }
            _ => buffer.len(),
        };
        if room == 0 {
            let mut shared = lock(shared);
            // Another order may have come in between.
            shared.held[way as usize] = shared.orders[way as usize] == order;
            drop(shared);
            std::thread::sleep(LOOK);
            continue;
        }
        let most = room.min(buffer.len());
        let count = match (&*from).read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let bytes = disturbed(order, &buffer[..count]);
        if (&*to).write_all(&bytes).is_err() || order == Order::Truncate {
            break;
        }
        let mut shared = lock(shared);
        shared.passed[way as usize] += bytes.len();
        if matches!(order, Order::Flip | Order::Oversize) {
            shared.orders[way as usize] = Order::Pass;
        }
    }
    lock(shared).done = true;
    for stream in [from, to] {
        // The other direction may have closed it.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn disturbed(order: Order, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match order {
        Order::Flip => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        Order::Truncate => bytes.truncate(bytes.len() / 2),
        Order::Oversize => {
            bytes.splice(0..0, [0xff; 5]);
        }
        _ => {}
    }
    bytes
}
