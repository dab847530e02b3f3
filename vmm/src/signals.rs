//! Signals: SIGTERM and SIGINT end the process in order; SIGPIPE is ignored by the runtime. SIGXFSZ
//! is passed over: a file that may not grow is an error of the write, not the end of the VM.

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Calls `ended` once for the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// When the host refuses the handlers or the thread.
pub fn on_termination(ended: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGXFSZ])?;
    std::thread::Builder::new()
        .name("vmm_signal_handler".to_owned())
        .spawn(move || {
            let mut ended = Some(ended);
            for signal in signals.forever().filter(|signal| *signal != SIGXFSZ) {
                match ended.take() {
                    Some(ended) => ended(),
                    None => std::process::exit(128 + signal),
                }
            }
        })?;
    Ok(())
}
