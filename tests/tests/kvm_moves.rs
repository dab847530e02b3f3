//! A guest that goes from KVM to the software processor and back, by migration and by snapshot. The
//! guest checks a part of its memory all the time, and its client every reply.
//!
//! Like those of `kvm.rs`, these run where KVM can run a stock kernel.

#![allow(clippy::unwrap_used, reason = "a test fails where its surroundings do")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::backend::{kvm_place, scratch_with_kvm};
use tests::command::Scratch;
use tests::figure;
use tests::migration::{
    COMPARISON, Receiver, events, figures, free_url, send, serve_client, start_guest_on, wait_for,
    wait_for_end,
};
use tests::process::{VmProcess, wait_until};
use tests::proxy::{Order, Proxy, Way};
use tests::scenario::Client;

/// The bench's machine is emulated, and its host may be busy.
const LIMIT: Duration = Duration::from_secs(120);
const MEMORY: &str = "96M";
const JOBS: &str = "job=load memory_mib=4 sha256_mib=1 loop_turns=500";

struct Scene {
    vm: VmProcess,
    /// What runs the guest.
    hypervisor: String,
    client: Client,
    count: u32,
    scratch: Scratch,
}

impl Scene {
    fn boot(name: &str) -> Option<Self> {
        let scratch = scratch_with_kvm(name).unwrap()?;
        let vm = start_guest_on("kvm", scratch.path(), "vmm-0", MEMORY, JOBS).unwrap();
        let client = serve_client(&vm, LIMIT).unwrap();
        Some(Self {
            vm,
            hypervisor: "kvm".to_owned(),
            client,
            count: 0,
            scratch,
        })
    }

    fn more_replies(&self, count: u64) {
        self.client.more(count, LIMIT).unwrap();
    }

    /// Another process, without a VM.
    fn empty(&mut self) -> VmProcess {
        self.count += 1;
        let name = format!("vmm-{}", self.count);
        let events = self.scratch.file(&format!("{name}.events"));
        let arguments = [
            "--event-monitor".to_owned(),
            format!("path={}", events.display()),
        ];
        VmProcess::start(self.scratch.path(), &name, &arguments).unwrap()
    }

    /// Migrates the guest to a process where `hypervisor` runs it.
    fn migrate(&mut self, hypervisor: &str) {
        let destination = self.empty();
        let options = json!({"hypervisor": hypervisor});
        let receiver = Receiver::start_with(&destination, free_url().unwrap(), &options);
        send(&self.vm, receiver.url(), &json!({})).unwrap();
        receiver.finish().unwrap();
        wait_for_end(&mut self.vm).unwrap();
        let figures = figures(&self.vm).unwrap();
        let place = kvm_place();
        figure(&format!(
            "migration from {} to {hypervisor}, {place}, {MEMORY} of memory, 4 MiB of it rewritten \
             all the time: {figures}",
            self.hypervisor
        ));
        self.vm = destination;
        self.hypervisor = hypervisor.to_owned();
        self.runs_on(hypervisor);
    }

    fn runs_on(&self, hypervisor: &str) {
        let status = self.vm.ft_status().unwrap();
        assert_eq!(status["hypervisor"], hypervisor, "{status}");
        self.more_replies(10);
    }

    fn finish(mut self) {
        assert_eq!(self.client.finish().unwrap().lost, 0);
    }
}

/// Waits until what a process has told of last is this.
fn last_event(process: &VmProcess, name: &str) {
    let told = wait_until(name, LIMIT, || {
        let last = events(process)?.pop();
        Ok(last.is_some_and(|event| event["event"] == name))
    });
    told.unwrap();
}

#[test]
fn a_busy_guest_goes_from_kvm_to_kvm_to_software_and_back() {
    let Some(mut scene) = Scene::boot("kvm-migrates") else {
        return;
    };
    for hypervisor in ["kvm", "software", "kvm"] {
        scene.migrate(hypervisor);
    }
    figure(&format!("for comparison: {COMPARISON}"));
    scene.finish();
}

#[test]
fn a_migration_that_is_cancelled_or_cut_leaves_the_source_running_and_the_receiver_usable() {
    let Some(mut scene) = Scene::boot("kvm-cut") else {
        return;
    };
    let destination = scene.empty();
    for cancelled in [true, false] {
        let receiver = Receiver::start(&destination, free_url().unwrap());
        last_event(&destination, "migration-receive-ready");
        let proxy = Proxy::start(receiver.url(), Order::Hold(1 << 20)).unwrap();
        send(&scene.vm, &proxy.url(), &json!({})).unwrap();
        // One that has not begun yet is none for the receiver, which waits on.
        last_event(&destination, "migration-receive-started");
        match cancelled {
            true => scene.vm.put("vm.cancel-migration", &Value::Null).unwrap(),
            false => proxy.order(Way::Forth, Order::Close),
        }
        wait_for(&scene.vm, &["Cancelled", "Failed"]).unwrap();
        drop(proxy);
        receiver.finish().unwrap_err();
        scene.runs_on("kvm");
    }
    let receiver = Receiver::start(&destination, free_url().unwrap());
    send(&scene.vm, receiver.url(), &json!({})).unwrap();
    receiver.finish().unwrap();
    wait_for_end(&mut scene.vm).unwrap();
    scene.vm = destination;
    scene.runs_on("kvm");
    scene.finish();
}

#[test]
fn a_snapshot_of_one_backend_goes_on_in_the_other() {
    let Some(mut scene) = Scene::boot("kvm-snapshot") else {
        return;
    };
    for (round, hypervisor) in ["software", "kvm"].into_iter().enumerate() {
        let folder = scene.scratch.file(&format!("snapshot-{round}"));
        std::fs::create_dir(&folder).unwrap();
        let url = format!("file://{}", folder.display());
        scene.vm.put("vm.pause", &Value::Null).unwrap();
        let take = json!({"destination_url": url});
        scene.vm.put("vm.snapshot", &take).unwrap();
        scene.vm.kill().unwrap();
        let other = scene.empty();
        let restore = json!({"source_url": url, "resume": true, "hypervisor": hypervisor});
        other.put("vm.restore", &restore).unwrap();
        scene.vm = other;
        scene.runs_on(hypervisor);
    }
    scene.finish();
}
