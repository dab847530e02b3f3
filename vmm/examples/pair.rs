//! Protects a guest in one process; a development aid.
use api_client::types::*;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use vmm::control::*;

fn control(owner: &str) -> Arc<Control> {
    let name = owner.to_owned();
    let (notices, _keep) = mpsc::channel();
    std::mem::forget(_keep);
    Control::new(Setting {
        hypervisor: Arc::new(hypervisor::software::SoftwareHypervisor),
        events: Arc::new(move |s, e, p| eprintln!("[{name}] {s} {e} {p:?}")),
        notices,
        owner: owner.to_owned(),
    })
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (a, b) = (control("a"), control("b"));
    let mut config: VmConfig = serde_json::from_str("{}").unwrap();
    config.memory.size = 256 << 20;
    config.payload = Some(serde_json::from_value(serde_json::json!({"kernel": args[1], "initramfs": args[2], "cmdline": args[3]})).unwrap());
    config.serial.mode = ConsoleMode::File;
    config.serial.file = Some("/tmp/pair-a.serial".into());
    a.create(config).unwrap();
    a.boot(None).unwrap();
    std::thread::sleep(Duration::from_millis(args[4].parse().unwrap()));
    b.ft_receive(&serde_json::from_value(serde_json::json!({"receiver_url": "unix:/tmp/pair.sock", "config_overrides": {"serial": {"mode": "File", "file": "/tmp/pair-b.serial"}}})).unwrap()).unwrap();
    let _ = std::fs::remove_file("/tmp/pair.fence.1");
    let t = std::time::Instant::now();
    let r = a.ft_start(&serde_json::from_value(serde_json::json!({"destination_url": "unix:/tmp/pair.sock", "fence": "none"})).unwrap());
    eprintln!("start {r:?} {:?}", t.elapsed());
    for _ in 0..args[5].parse::<u32>().unwrap() {
        std::thread::sleep(Duration::from_secs(1));
        println!("A {}", a.ft_status().unwrap());
        println!("B {}", b.ft_status().unwrap());
    }
    a.delete();
    std::thread::sleep(Duration::from_secs(1));
    println!("B {}", b.ft_status().unwrap());
}
