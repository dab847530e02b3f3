//! The world outside: clients that ask and ask again, and an observer who writes down every output
//! and knows what one legal history looks like.

use std::collections::BTreeMap;

use ft::codec::FieldReader;
use ft::event::{Input, Output};
use ft::time::Generation;

use super::random::mix;
use super::toy::{LINE, NET};

/// Least time between two frames.
const FRAME_EVERY_NS: u64 = 4_000_000;
/// Time after which a client asks again.
const PATIENCE_NS: u64 = 60_000_000;

/// An output as the world saw it first.
#[derive(Clone, Debug)]
struct Seen {
    payload: Vec<u8>,
    after: u64,
    releases: Vec<(usize, Generation)>,
}

/// The observer and the clients.
#[derive(Debug, Default)]
pub struct World {
    seen: Vec<Seen>,
    latest: Generation,
    open: BTreeMap<u64, u64>,
    /// Requests that were answered.
    pub answered: u64,
    /// Outputs that came more than once.
    pub repeated: u64,
    next_request: u64,
    next_frame: u64,
    /// A machine that was known to have diverged went live: its history is another one.
    pub forgiven: bool,
}

impl World {
    /// An output reaches the world.
    ///
    /// # Errors
    /// If it does not belong to the one history that was seen so far.
    pub fn observe(
        &mut self,
        host: usize,
        generation: Generation,
        output: &Output,
    ) -> Result<(), String> {
        if generation < self.latest {
            let latest = self.latest;
            return Err(format!(
                "host {host} put out in generation {generation} after generation {latest} did"
            ));
        }
        self.latest = generation;
        let mut reader = FieldReader::new(&output.payload);
        let mut field = || reader.u64("output").map_err(|error| error.to_string());
        let (number, before, after, request) = (field()?, field()?, field()?, field()?);
        let index = number as usize;
        if self.forgiven {
            self.answer(request);
            return Ok(());
        }
        if let Some(seen) = self.seen.get_mut(index - 1) {
            if seen.payload != output.payload {
                return Err(format!("output {number} was another one before"));
            }
            if seen.releases.contains(&(host, generation)) {
                return Err(format!("output {number} was put out twice by host {host}"));
            }
            seen.releases.push((host, generation));
            self.repeated += 1;
            return Ok(());
        }
        if index != self.seen.len() + 1 {
            return Err(format!(
                "output {number} follows output {}",
                self.seen.len()
            ));
        }
        let chain = self.seen.last().map_or(0, |seen| seen.after);
        if before != chain {
            return Err(format!(
                "output {number} does not go on from what the world has seen"
            ));
        }
        let releases = vec![(host, generation)];
        self.seen.push(Seen {
            payload: output.payload.clone(),
            after,
            releases,
        });
        self.answer(request);
        Ok(())
    }

    /// A new request, to be offered to whoever is live.
    pub fn ask(&mut self, now: u64) -> Input {
        self.next_request += 1;
        self.open.insert(self.next_request, now + PATIENCE_NS);
        request_input(self.next_request)
    }

    /// Requests that have waited for too long, to be offered again.
    pub fn ask_again(&mut self, now: u64) -> Vec<Input> {
        let mut again = Vec::new();
        for (request, due) in &mut self.open {
            if *due <= now {
                *due = now + PATIENCE_NS;
                again.push(request_input(*request));
            }
        }
        again
    }

    /// A frame, if it is time for one, to be offered to whoever is live.
    pub fn frame(&mut self, now: u64) -> Option<Input> {
        let random = mix(self.next_request);
        if now < self.next_frame {
            return None;
        }
        self.next_frame = now + FRAME_EVERY_NS;
        let payload = (0..random % 200).map(|byte| mix(random ^ byte) as u8);
        Some(Input::Device {
            device: NET,
            payload: payload.collect(),
        })
    }

    /// How many requests have no answer.
    pub fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Everything the world has seen, in order.
    pub fn outputs(&self) -> impl Iterator<Item = &[u8]> {
        self.seen.iter().map(|seen| seen.payload.as_slice())
    }

    fn answer(&mut self, request: u64) {
        if self.open.remove(&request).is_some() {
            self.answered += 1;
        }
    }
}

/// A request as the machine takes it.
fn request_input(request: u64) -> Input {
    Input::Device {
        device: LINE,
        payload: request.to_le_bytes().to_vec(),
    }
}
