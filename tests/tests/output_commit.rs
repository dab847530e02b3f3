//! Output commit, seen from the network: no frame of the guest leaves before the backup has
//! acknowledged what led to it.
//!
//! A proxy between primary and backup holds the backup's acknowledgements back. What the guest
//! answers to a request that was sent after that cannot have been acknowledged, so no frame of
//! the answer may be seen until acknowledgements go on, however long that takes and however slow
//! the host is. The primary's status shows meanwhile that the answer is there and waits. The same
//! observer does see the answer of an unprotected guest at once: it is not blind.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::capture::Capture;
use tests::command::Scratch;
use tests::network::Network;
use tests::process::wait_until;
use tests::proxy::{Order, Proxy, Way};
use tests::scenario::{Pair, Protection};
use tests::servers::ServerGuest;
use tests::servers::traffic::{Connection, connect, receive, send};

const LIMIT: Duration = Duration::from_secs(30);
/// How long acknowledgements are held once the answer is known to wait.
const HELD: Duration = Duration::from_millis(200);
/// How long a guest may think about a request that nobody holds back.
const ANSWER: Duration = Duration::from_secs(5);
/// Far longer than any hold: nobody is to be suspected of being dead.
const TIMEOUT_MS: u64 = 60_000;
const REDIS: u16 = 6379;
const REQUEST: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const REPLY: &[u8] = b"+PONG\r\n";

struct Scene {
    pair: Pair,
    capture: Capture,
    client: Connection,
    _scratch: Scratch,
    _network: Network,
}

/// What came of one request while acknowledgements were held.
#[derive(Debug)]
struct Seen {
    /// Frames of the guest for the client.
    frames: usize,
    /// Outputs that the primary said it held.
    waiting: u64,
}

impl Scene {
    fn boot(name: &str) -> Option<Self> {
        let network = Network::enter().unwrap()?;
        let scratch = Scratch::new(name).unwrap();
        let pair = ServerGuest::with("redis").boot(scratch.path()).unwrap();
        let client = connect(REDIS).unwrap();
        Some(Self {
            pair,
            capture: Capture::start().unwrap(),
            client,
            _scratch: scratch,
            _network: network,
        })
    }

    /// Protects the guest through a proxy.
    fn protect(&mut self, release: &str) -> Proxy {
        let url = self.pair.start_backup("tcp").unwrap();
        let proxy = Proxy::start(&url, Order::Pass).unwrap();
        let protection = Protection {
            start: json!({"release": release, "timeout_ms": TIMEOUT_MS}),
            ..Protection::default()
        };
        let body = self.pair.start_body(&protection, &proxy.url());
        self.pair.primary.put("vm.ft-start", &body).unwrap();
        self.exchange();
        proxy
    }

    /// A request and its reply.
    fn exchange(&mut self) {
        send(&mut self.client, REQUEST).unwrap();
        self.expect_reply();
    }

    fn expect_reply(&mut self) {
        let mut reply = [0; REPLY.len()];
        receive(&mut self.client, &mut reply).unwrap();
        assert_eq!(reply, REPLY);
    }

    fn frames_since(&self, begun: Instant) -> usize {
        let port = self.client.get_ref().local_addr().unwrap().port();
        let frames = self.capture.frames();
        let frames = frames.iter().filter(|frame| frame.at >= begun);
        frames.filter(|frame| frame.port == Some(port)).count()
    }

    fn waiting(&self) -> u64 {
        let status = self.pair.primary.ft_status().unwrap();
        status["outputs"]["waiting"].as_u64().unwrap()
    }

    /// Sends a request while `proxy`, if there is one, lets no acknowledgement through; watches.
    ///
    /// The last exchange is over and acknowledged by the client, so whatever the guest sends to
    /// it from here on is an answer to this request.
    fn request_while_held(&mut self, proxy: Option<&Proxy>) -> Seen {
        self.wait_for_silence();
        if let Some(proxy) = proxy {
            proxy.hold(Way::Back).unwrap();
        }
        let begun = Instant::now();
        send(&mut self.client, REQUEST).unwrap();
        let mut waiting = 0;
        // An answer that leaves does not wait: that is the other way for this to end.
        let waited = wait_until("an answer of the guest", ANSWER, || {
            waiting = self.waiting();
            Ok(waiting > 0 || self.frames_since(begun) > 0)
        });
        waited.unwrap();
        std::thread::sleep(HELD);
        let frames = self.frames_since(begun);
        Seen { frames, waiting }
    }

    /// Nothing of an earlier exchange is on its way any more.
    fn wait_for_silence(&self) {
        let mut since = Instant::now();
        let waited = wait_until("silence", LIMIT, || {
            let now = Instant::now();
            if self.frames_since(since) > 0 {
                since = now;
            }
            Ok(now - since > Duration::from_millis(60))
        });
        waited.unwrap();
    }
}

#[test]
fn no_frame_leaves_before_its_acknowledgement_whatever_the_policy() {
    let Some(mut scene) = Scene::boot("commit") else {
        return;
    };
    for release in ["received", "replayed", "verified"] {
        let proxy = scene.protect(release);
        for probe in 0..5 {
            let seen = scene.request_while_held(Some(&proxy));
            assert_eq!(seen.frames, 0, "{release}, probe {probe}: {seen:?}");
            assert!(seen.waiting > 0, "{release}, probe {probe}: {seen:?}");
            // Acknowledgements flow again, and so do the frames.
            proxy.order(Way::Back, Order::Pass);
            scene.expect_reply();
            scene.exchange();
        }
        let status = scene.pair.primary.ft_status().unwrap();
        assert_eq!(status["role"], "primary", "{status}");
        assert_eq!(status["divergences"], 0, "{status}");
        scene.pair.primary.put("vm.ft-stop", &Value::Null).unwrap();
        drop(scene.pair.backup.take());
        scene.exchange();
    }
}

#[test]
fn the_observer_sees_what_nobody_holds_back() {
    let Some(mut scene) = Scene::boot("no-gate") else {
        return;
    };
    // What the test above would find if outputs left too early: of a guest that is not protected,
    // and of one whose acknowledgements are let through.
    let assert_seen = |scene: &mut Scene, what: &str| {
        for probe in 0..5 {
            let seen = scene.request_while_held(None);
            assert!(seen.frames > 0, "{what}, probe {probe}: {seen:?}");
            scene.expect_reply();
        }
    };
    assert_seen(&mut scene, "unprotected");
    let _proxy = scene.protect("received");
    assert_seen(&mut scene, "acknowledged");
}

#[test]
fn an_answer_that_was_held_at_a_kill_comes_from_the_backup() {
    let Some(mut scene) = Scene::boot("held-kill") else {
        return;
    };
    for way in [Way::Back, Way::Forth] {
        let proxy = scene.protect("received");
        scene.wait_for_silence();
        // Forth: the backup has never heard of the request, and hears it from the client again.
        proxy.hold(Way::Back).unwrap();
        proxy.hold(way).unwrap();
        let begun = Instant::now();
        send(&mut scene.client, REQUEST).unwrap();
        std::thread::sleep(HELD);
        assert_eq!(scene.frames_since(begun), 0, "{way:?}");
        scene.pair.primary.kill().unwrap();
        // While it holds, it does not notice that an end is closed.
        drop(proxy);
        scene.pair.promote().unwrap();
        scene.expect_reply();
        scene.exchange();
    }
}
