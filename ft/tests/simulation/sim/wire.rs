//! A connection between two hosts: ordered bytes with a delay, and what can go wrong with them.

use std::collections::VecDeque;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the primary that opened the connection.
    Forth,
    /// To it.
    Back,
}

impl Way {
    /// The other way.
    pub fn other(self) -> Self {
        match self {
            Self::Forth => Self::Back,
            Self::Back => Self::Forth,
        }
    }
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing more will.
    Closed,
}

/// Bytes under way in one direction.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(u64, Arrival)>,
    /// Nothing has arrived since.
    blocked: Option<u64>,
    closed: bool,
    damage: Option<(Damage, u64)>,
}

/// What happens to the next bytes in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is flipped.
    Flip,
    /// The rest of them is lost and the connection closed.
    Truncate,
    /// Bytes of a frame too large to exist are put in front.
    Oversize,
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    lanes: [Lane; 2],
    latency_ns: u64,
}

impl Wire {
    /// A connection on which bytes take `latency_ns`.
    pub fn new(latency_ns: u64) -> Self {
        Self {
            lanes: [Lane::default(), Lane::default()],
            latency_ns,
        }
    }

    /// Sends bytes at `now`.
    pub fn send(&mut self, way: Way, mut bytes: Vec<u8>, now: u64) {
        let latency_ns = self.latency_ns;
        let lane = self.lane(way);
        if lane.closed {
            return;
        }
        let at = now + latency_ns;
        match lane.damage.take() {
            None => {}
            Some((Damage::Flip, random)) => {
                let bit = random as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Some((Damage::Oversize, _)) => bytes = [vec![0xff; 4], bytes].concat(),
            Some((Damage::Truncate, random)) => {
                bytes.truncate(random as usize % bytes.len());
                lane.waiting.push_back((at, Arrival::Bytes(bytes)));
                self.close(now);
                return;
            }
        }
        lane.waiting.push_back((at, Arrival::Bytes(bytes)));
    }

    /// Takes what has arrived by `now`.
    pub fn receive(&mut self, way: Way, now: u64) -> Option<Arrival> {
        let lane = self.lane(way);
        let until = lane.blocked.map_or(now, |since| since.min(now));
        if lane.waiting.front().is_none_or(|(at, _)| *at > until) {
            return None;
        }
        lane.waiting.pop_front().map(|(_, arrival)| arrival)
    }

    /// When the next thing arrives.
    pub fn next_arrival(&self, way: Way) -> Option<u64> {
        let lane = &self.lanes[way as usize];
        let first = lane.waiting.front().map(|(at, _)| *at);
        first.filter(|at| lane.blocked.is_none_or(|since| *at <= since))
    }

    /// Closes one direction: what is under way still arrives, then its end.
    pub fn close_way(&mut self, way: Way, now: u64) {
        let at = now + self.latency_ns;
        let lane = self.lane(way);
        if !lane.closed {
            lane.closed = true;
            lane.waiting.push_back((at, Arrival::Closed));
        }
    }

    /// Closes both directions.
    pub fn close(&mut self, now: u64) {
        self.close_way(Way::Forth, now);
        self.close_way(Way::Back, now);
    }

    /// Holds everything that goes one way and has not arrived yet, or lets it go on.
    pub fn block(&mut self, way: Way, blocked: bool, now: u64) {
        let lane = self.lane(way);
        if blocked {
            lane.blocked.get_or_insert(now);
        } else if let Some(since) = lane.blocked.take() {
            let held = lane.waiting.iter_mut().filter(|(at, _)| *at > since);
            held.for_each(|(at, _)| *at = (*at).max(now));
        }
    }

    /// What is under way one way never arrives, nor does anything after it.
    pub fn lose(&mut self, way: Way) {
        let lane = self.lane(way);
        lane.waiting.clear();
        lane.closed = true;
    }

    /// Damages the next bytes that go one way.
    pub fn damage(&mut self, way: Way, damage: Damage, random: u64) {
        self.lane(way).damage = Some((damage, random));
    }

    fn lane(&mut self, way: Way) -> &mut Lane {
        &mut self.lanes[way as usize]
    }
}
