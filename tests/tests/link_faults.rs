//! Faults of the connection between a primary and its backup, and kills at each phase, with a
//! client at the guest's service: one machine at most is live, nothing acknowledged is lost, and
//! the status says what happened.
//!
//! A guest is booted once for each test and protected again after each fault.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::command::Scratch;
use tests::process::{VmProcess, wait_until};
use tests::proxy::{Order, Proxy, Way};
use tests::scenario::{Client, Pair, Protection};

const LIMIT: Duration = Duration::from_secs(15);
/// A client gives a silent connection 20 s before it looks elsewhere.
const CLIENT_LIMIT: Duration = Duration::from_secs(35);
/// How long a peer may be silent: the hosts are one machine here, which may be busy, and only the
/// faults are to end a protection.
const TIMEOUT_MS: u64 = 1000;

struct Scene {
    pair: Pair,
    client: Client,
    proxy: Option<Proxy>,
    scratch: Scratch,
}

impl Scene {
    fn boot(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let folder = scratch.path().to_owned();
        let booted = Pair::boot(folder, "128M", "job=service", "MARK begin service");
        let (pair, line, _) = booted.unwrap();
        let client = Client::start(line, pair.primary.serial().to_owned()).unwrap();
        Self {
            pair,
            client,
            proxy: None,
            scratch,
        }
    }

    /// Protects the guest over a connection that can be disturbed.
    fn protect(&mut self) {
        let (protection, proxy) = self.begin(Order::Pass);
        let body = self.pair.start_body(&protection, &proxy.url());
        self.pair.primary.put("vm.ft-start", &body).unwrap();
        self.proxy = Some(proxy);
        self.more_replies(10);
    }

    fn begin(&mut self, forth: Order) -> (Protection, Proxy) {
        let url = self.pair.start_backup("tcp").unwrap();
        let proxy = Proxy::start(&url, forth).unwrap();
        (Protection::patient(TIMEOUT_MS), proxy)
    }

    fn order(&self, way: Way, order: Order) {
        self.proxy.as_ref().unwrap().order(way, order);
    }

    fn backup(&self) -> &VmProcess {
        self.pair.backup.as_ref().unwrap()
    }

    fn more_replies(&self, count: u64) {
        self.client.more(count, CLIENT_LIMIT).unwrap();
    }

    /// Waits until the guest has put something out that has not left.
    fn wait_for_held_outputs(&self) {
        let waited = wait_until("outputs that wait", LIMIT, || {
            let status = self.pair.primary.ft_status()?;
            Ok(status["outputs"]["waiting"].as_u64() > Some(0))
        });
        waited.unwrap();
    }

    fn wait_until_alone(&self) {
        let alone = json!("unprotected");
        self.pair.primary.wait_for("role", &alone, LIMIT).unwrap();
    }

    /// Waits until one side is live and the other has ended. Returns whether the backup went live,
    /// and what the other says.
    fn settle(&mut self, what: &str) -> (bool, Value) {
        let settled = self.pair.settle();
        let settled = settled.unwrap_or_else(|error| panic!("{what}: {error}"));
        self.proxy = None;
        if settled.promoted {
            self.client.follow(self.pair.primary.serial().to_owned());
        }
        let survivor = self.pair.primary.ft_status().unwrap();
        assert_eq!(survivor["divergences"], 0, "{what}: {survivor}");
        self.more_replies(10);
        (settled.promoted, settled.loser)
    }

    /// The primary is dead: its backup takes its place.
    fn promote(&mut self) {
        self.client.follow_backup(&self.pair).unwrap();
        self.pair.promote().unwrap();
        self.proxy = None;
        self.more_replies(10);
    }

    fn finish(mut self) {
        assert_eq!(self.client.finish().unwrap().lost, 0);
    }
}

fn says(status: &Value, words: &[&str]) {
    let error = status["error"].as_str().unwrap_or_default();
    let said = words.iter().any(|word| error.contains(word));
    assert!(said, "none of {words:?} in {status}");
}

#[test]
fn damaged_frames_are_told_apart_from_a_dead_peer_and_the_primary_goes_on() {
    let mut scene = Scene::boot("damaged");
    for order in [Order::Flip, Order::Oversize] {
        for way in [Way::Forth, Way::Back] {
            scene.protect();
            scene.order(way, order);
            let (promoted, loser) = scene.settle(&format!("{order:?} {way:?}"));
            assert!(
                !promoted,
                "{order:?} {way:?}: the primary is given precedence"
            );
            says(&loser, &["was claimed by"]);
        }
    }
    // A log that ends in the middle of a frame: whoever asks the fence first goes on.
    for way in [Way::Forth, Way::Back] {
        scene.protect();
        scene.order(way, Order::Truncate);
        scene.settle(&format!("truncated {way:?}"));
    }
    scene.finish();
}

#[test]
fn a_connection_that_closes_resets_or_falls_silent_leaves_one_live_machine() {
    let mut scene = Scene::boot("silent");
    for order in [Order::Close, Order::Reset] {
        scene.protect();
        scene.order(Way::Forth, order);
        scene.order(Way::Back, order);
        let (_, loser) = scene.settle(&format!("{order:?}"));
        says(&loser, &["was claimed by"]);
    }
    for ways in [&[Way::Forth][..], &[Way::Back], &[Way::Forth, Way::Back]] {
        scene.protect();
        for way in ways {
            scene.order(*way, Order::Hold(0));
        }
        let (_, loser) = scene.settle(&format!("silent {ways:?}"));
        says(&loser, &["was claimed by"]);
    }
    // A backup that stands still is replaced by nobody, and has to halt when it wakes.
    scene.protect();
    scene.backup().signal("STOP").unwrap();
    scene.wait_until_alone();
    scene.more_replies(10);
    scene.backup().signal("CONT").unwrap();
    let (promoted, _) = scene.settle("a backup that wakes");
    assert!(!promoted);
    scene.finish();
}

#[test]
fn a_primary_killed_in_any_phase_is_replaced_once_the_clone_is_complete() {
    let mut scene = Scene::boot("kill-phases");
    // The first epoch: `vm.ft-start` has just been answered.
    let (protection, proxy) = scene.begin(Order::Pass);
    let body = scene.pair.start_body(&protection, &proxy.url());
    scene.pair.primary.put("vm.ft-start", &body).unwrap();
    scene.pair.primary.kill().unwrap();
    scene.promote();
    // Acknowledgements outstanding: nothing comes back, and something waits for it.
    scene.protect();
    scene.proxy.as_ref().unwrap().hold(Way::Back).unwrap();
    scene.wait_for_held_outputs();
    scene.pair.primary.kill().unwrap();
    scene.promote();
    // In the midst of a frame: the log is cut among its events, or a delta in its pages.
    for odd in [3, 8, 13, 1501] {
        scene.protect();
        scene.order(Way::Forth, Order::Hold(odd));
        let proxy = scene.proxy.as_ref().unwrap();
        proxy.wait_until_held(Way::Forth).unwrap();
        scene.pair.primary.kill().unwrap();
        scene.proxy = None;
        scene.promote();
    }
    // A planned failover is under way.
    scene.protect();
    scene.client.follow_backup(&scene.pair).unwrap();
    let failover = json!({"planned": true});
    scene.pair.primary.put("vm.ft-failover", &failover).unwrap();
    scene.pair.primary.kill().unwrap();
    scene.promote();
    // The clone is not complete: nobody can take over, and the backup says so.
    let status = kill_in_clone(&mut scene, 4 << 20);
    says(
        &status,
        &["the clone is not complete", "the connection was closed"],
    );
    assert_eq!(status["live"], false, "{status}");
}

/// Kills the primary once so many bytes have gone to the backup; what the backup says then.
fn kill_in_clone(scene: &mut Scene, bytes: usize) -> Value {
    let (protection, proxy) = scene.begin(Order::Hold(bytes));
    let body = scene.pair.start_body(&protection, &proxy.url());
    std::thread::scope(|scope| {
        let Scene { pair, .. } = &mut *scene;
        let Pair { primary, .. } = pair;
        let api = primary.api().to_owned();
        let start = scope.spawn(move || {
            let client = api_client::Client::connect(&api);
            client.and_then(|mut client| client.put_json("vm.ft-start", &body).map(|_| ()))
        });
        proxy.wait_until_held(Way::Forth).unwrap();
        primary.kill().unwrap();
        assert!(
            start.join().unwrap().is_err(),
            "the start has not succeeded"
        );
    });
    drop(proxy);
    let backup = scene.backup();
    backup.wait_for("role", &json!("ended"), LIMIT).unwrap()
}

#[test]
fn a_backup_killed_in_any_phase_and_an_unwritable_fence_do_no_harm() {
    let mut scene = Scene::boot("backup-phases");
    // In the handshake, early in the clone, late in the clone.
    for bytes in [0, 100_000, 6 << 20] {
        kill_backup_in_clone(&mut scene, bytes);
    }
    scene.protect();
    let mut backup = scene.pair.backup.take().unwrap();
    backup.kill().unwrap();
    scene.wait_until_alone();
    scene.more_replies(10);

    // The fence cannot be written when the primary is killed: its backup waits, and says for what.
    let folder = scene.scratch.file("fences");
    let away = scene.scratch.file("fences-away");
    std::fs::create_dir(&folder).unwrap();
    let fence = format!("file:{}", folder.join("fence").display());
    let protection = Protection {
        start: json!({"fence": fence, "timeout_ms": TIMEOUT_MS}),
        ..Protection::default()
    };
    scene.pair.protect(&protection).unwrap();
    scene.more_replies(10);
    std::fs::rename(&folder, &away).unwrap();
    scene.client.follow_backup(&scene.pair).unwrap();
    scene.pair.primary.kill().unwrap();
    let mut last = Value::Null;
    let waited = wait_until("the fence to be missed", LIMIT, || {
        last = scene.backup().ft_status()?;
        Ok(last["state"] == "fencing" && last["error"].is_string())
    });
    assert!(waited.is_ok(), "{waited:?}: {last}");
    says(&last, &["fences"]);
    assert_eq!(last["live"], false, "{last}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.backup().ft_status().unwrap()["live"], false);
    std::fs::rename(&away, &folder).unwrap();
    scene.promote();
    scene.finish();
}

/// Kills the backup once so many bytes have gone to it: the start fails, the guest goes on.
fn kill_backup_in_clone(scene: &mut Scene, bytes: usize) {
    let (protection, proxy) = scene.begin(Order::Hold(bytes));
    let body = scene.pair.start_body(&protection, &proxy.url());
    let mut backup = scene.pair.backup.take().unwrap();
    std::thread::scope(|scope| {
        let primary = &scene.pair.primary;
        let start = scope.spawn(move || primary.put("vm.ft-start", &body));
        proxy.wait_until_held(Way::Forth).unwrap();
        backup.kill().unwrap();
        drop(proxy);
        let refused = start.join().unwrap().expect_err("the backup is dead");
        let said = refused.to_string();
        assert!(said.contains("The VM could not be protected"), "{said}");
    });
    let status = scene.pair.primary.ft_status().unwrap();
    assert_eq!(status["role"], "unprotected", "{status}");
    assert_eq!(status["live"], true, "{status}");
    scene.more_replies(10);
}
