//! Boots a guest with its serial port on standard output; a development aid.
use ft::event::{ClockSync, ClockRate, Input};
use ft::machine::{Machine, Stop};
use ft::time::LogicalTime;
use std::io::Write;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let payload = vmm::loader::Payload::read(args[1].as_ref(), Some(args[2].as_ref()), &args[3]).unwrap();
    let limit: u64 = args.get(4).map_or(u64::MAX, |n| n.parse().unwrap());
    let config = vmm::machine::MachineConfig { memory_size: 256 << 20, serial: true, start_seconds: 1_700_000_000, boot_pages: 0 };
    let mut machine = vmm::machine::VirtualMachine::new(config, &payload, &hypervisor::software::SoftwareHypervisor).unwrap();
    let start = Instant::now();
    let mut last = Instant::now();
    let mut last_t = 0;
    loop {
        let now = machine.now();
        if now.0 > limit { break; }
        match machine.advance(LogicalTime(now.0 + 1_000_000)) {
            Stop::Reached | Stop::Kicked => {}
            Stop::Output => {
                for output in machine.take_outputs() {
                    std::io::stdout().write_all(&output.payload).unwrap();
                }
                std::io::stdout().flush().unwrap();
            }
            Stop::Idle { wake_ns } => {
                let Some(wake) = wake_ns else { eprintln!("halted forever"); break };
                machine.inject(&Input::Clock(ClockSync { virtual_ns: wake.max(machine.virtual_ns()), rate: ClockRate(65536*8) })).unwrap();
            }
            Stop::PoweredOff => { eprintln!("powered off"); break; }
            Stop::Failed(text) => { eprintln!("FAILED {text}"); eprintln!("{:x?}", machine.cpu_state()); break; }
        }
        if last.elapsed().as_secs() >= 2 {
            let t = machine.now().0;
            eprintln!("[{:.1}s t={} {:.0} MIPS virtual {} ms rip {:x}]", start.elapsed().as_secs_f64(), t, (t - last_t) as f64 / last.elapsed().as_secs_f64() / 1e6, machine.virtual_ns()/1_000_000, machine.cpu_state().rip);
            last = Instant::now(); last_t = t;
        }
    }
    eprintln!("t={} in {:?}", machine.now().0, start.elapsed());
}
