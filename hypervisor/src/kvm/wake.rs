//! How `KVM_RUN` is made to end: by a signal to the thread that is in it, from another thread or
//! from a timer.
//!
//! ```text
//!   kick:   asked := true ─▶ running thread? ─▶ signal ─┐
//!   timer:  expires ────────────────────────▶ signal ───┴▶ handler: immediate_exit := 1
//! ```
//!
//! `immediate_exit` closes the gap between the last look at the flag and the entry: whenever the
//! handler has run since it was zeroed, `KVM_RUN` returns at once. The handler finds the byte in
//! a variable of its thread, which is set only while a vCPU is borrowed for `run`; so neither a
//! late signal nor a moved vCPU can write anywhere else. KVM API 5, `immediate_exit`.
//!
//! UNSAFETY: a signal handler, timers of the kernel, and the byte that the kernel reads.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::vcpu::WakeVcpu;

thread_local! {
    /// The byte that ends `KVM_RUN` on this thread; null while no vCPU runs on it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

/// The signal: a real-time one, which nothing else here uses.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {
    let byte = IMMEDIATE_EXIT.try_with(Cell::get);
    if let Ok(byte) = byte
        && !byte.is_null()
    {
        // SAFETY: a pointer that is not null was set by `Running::begin` on this thread, and is
        // taken back before the vCPU, whose mapping it points into, can go. Aligned: one byte.
        unsafe { AtomicU8::from_ptr(byte) }.store(1, Ordering::SeqCst);
    }
}

/// Installs the handler, once in a process.
///
/// # Errors
/// When the host refuses.
pub(super) fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: an all-zero `sigaction` is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int) = on_signal;
        action.sa_sigaction = handler as *const () as usize;
        // What else the thread waits in goes on by itself where it can.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing but an atomic store, which may be done at any time.
        let result = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn this_thread() -> libc::pid_t {
    // SAFETY: has no preconditions.
    unsafe { libc::gettid() }
}

/// The thread that a vCPU runs on at the moment, for kicks from others.
#[derive(Debug, Default)]
pub(super) struct RunningThread(AtomicI32);

impl WakeVcpu for RunningThread {
    fn wake(&self) {
        let thread = self.0.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: a signal with a handler, to a thread of this process; if it has ended
            // meanwhile, the call fails and there is nothing to wake.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}

/// While this lives, signals to this thread end the vCPU's `KVM_RUN`.
pub(super) struct Running<'a> {
    thread: &'a RunningThread,
    byte: *mut u8,
}

impl<'a> Running<'a> {
    /// The vCPU whose `immediate_exit` is `byte` begins to run on this thread.
    pub fn begin(thread: &'a RunningThread, byte: *mut u8) -> Self {
        let running = Self { thread, byte };
        running.clear();
        IMMEDIATE_EXIT.set(byte);
        thread.0.store(this_thread(), Ordering::SeqCst);
        running
    }

    /// Lets the next `KVM_RUN` enter the guest, unless a signal comes first.
    pub fn clear(&self) {
        self.store(0);
    }

    /// Makes the next `KVM_RUN` complete what is under way and return.
    pub fn only_complete(&self) {
        self.store(1);
    }

    fn store(&self, value: u8) {
        // SAFETY: the byte lies in the mapping of the vCPU that is borrowed for `run`.
        unsafe { AtomicU8::from_ptr(self.byte) }.store(value, Ordering::SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.thread.0.store(0, Ordering::SeqCst);
        IMMEDIATE_EXIT.set(std::ptr::null_mut());
    }
}

/// While this lives, no signal disturbs this thread: those that come are delivered afterwards. For
/// requests to KVM that end early, and not well, when a signal waits.
pub(super) struct Undisturbed {
    before: libc::sigset_t,
    /// A mask is a thread's own.
    _not_send: PhantomData<*const ()>,
}

impl Undisturbed {
    /// Begins to hold signals back.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn begin() -> io::Result<Self> {
        // SAFETY: plain sets of bits, which the calls fill.
        let (changed, before) = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            let changed = libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            (changed, before)
        };
        match changed {
            0 => Ok(Self {
                before,
                _not_send: PhantomData,
            }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // SAFETY: the mask that this thread had.
        let restored = unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(restored, 0, "a mask that was in force is one");
    }
}

/// A timer that signals one thread.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Option<Timer>,
    /// Host counter at which it goes off, if it is set.
    due: Option<u64>,
}

#[derive(Debug)]
struct Timer {
    id: libc::timer_t,
    thread: libc::pid_t,
}

// SAFETY: the number of a timer, which belongs to the process, not to a thread.
unsafe impl Send for Timer {}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `Timer::new` and is deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

impl Timer {
    fn new(thread: libc::pid_t) -> io::Result<Self> {
        // SAFETY: an all-zero `sigevent` is a valid one.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = thread;
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to variables that outlive the call.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) };
        if made == 0 {
            Ok(Self { id, thread })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn set(&self, ns: u64) -> io::Result<()> {
        const NS_PER_SECOND: u64 = 1_000_000_000;
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let seconds = i64::try_from(ns / NS_PER_SECOND).unwrap_or(i64::MAX);
        let wanted = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: seconds,
                tv_nsec: (ns % NS_PER_SECOND) as i64,
            },
        };
        // SAFETY: the timer exists as long as `self`; the structure outlives the call.
        let set =
            unsafe { libc::timer_settime(self.id, 0, &raw const wanted, std::ptr::null_mut()) };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// An alarm that is due later than this after what is wanted is set anew, and one that goes off
/// within it may have gone off before the guest was entered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// Host counter now.
    pub now: u64,
    /// Host counter at which the vCPU must come back.
    pub wanted: u64,
    /// Nanoseconds in between.
    pub ns: u64,
    /// Host counter ticks that the timer's and the counter's idea of time may be apart.
    pub slack: u64,
}

impl Alarm {
    pub fn new() -> Self {
        Self {
            timer: None,
            due: None,
        }
    }

    /// Sees to it that a signal comes to this thread no later than wanted. One that is set for an
    /// earlier moment is left as it is: a run that comes back early sets it again, and most
    /// runs end with an exit long before, so most need no system call.
    pub fn set(&mut self, due: Due) -> io::Result<()> {
        let thread = this_thread();
        if self
            .timer
            .as_ref()
            .is_none_or(|timer| timer.thread != thread)
        {
            self.timer = Some(Timer::new(thread)?);
            self.due = None;
        }
        let earliest = due.now.saturating_add(due.slack);
        if self
            .due
            .is_some_and(|set| set > earliest && set <= due.wanted)
        {
            return Ok(());
        }
        if let Some(timer) = &self.timer {
            timer.set(due.ns.max(1))?;
        }
        self.due = Some(due.wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spins until the handler has written, for a second at most.
    fn is_written(byte: &AtomicU8) -> bool {
        for _ in 0..1000 {
            if byte.load(Ordering::SeqCst) == 1 {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn a_wake_reaches_a_running_vcpu_and_no_other() {
        install_handler().unwrap();
        let thread = RunningThread::default();
        let byte = AtomicU8::new(0);
        thread.wake();
        {
            let running = Running::begin(&thread, byte.as_ptr());
            assert_eq!(byte.load(Ordering::SeqCst), 0);
            std::thread::scope(|scope| {
                scope.spawn(|| thread.wake());
            });
            assert!(is_written(&byte));
            running.clear();
        }
        // SAFETY: a signal with a handler, to this thread.
        unsafe { libc::raise(signal()) };
        assert_eq!(byte.load(Ordering::SeqCst), 0, "nothing runs any more");
    }

    #[test]
    fn a_signal_waits_while_nothing_may_disturb_the_thread() {
        install_handler().unwrap();
        let thread = RunningThread::default();
        let byte = AtomicU8::new(0);
        let _running = Running::begin(&thread, byte.as_ptr());
        let undisturbed = Undisturbed::begin().unwrap();
        thread.wake();
        assert_eq!(byte.load(Ordering::SeqCst), 0);
        drop(undisturbed);
        assert!(is_written(&byte));
    }

    #[test]
    fn an_alarm_goes_off_and_is_set_again() {
        install_handler().unwrap();
        let thread = RunningThread::default();
        let byte = AtomicU8::new(0);
        let running = Running::begin(&thread, byte.as_ptr());
        let mut alarm = Alarm::new();
        for round in 1..4 {
            let now = round * 10_000_000;
            let due = Due {
                now,
                wanted: now + 1_000_000,
                ns: 1_000_000,
                slack: 2_000,
            };
            alarm.set(due).unwrap();
            assert!(is_written(&byte), "round {round}");
            running.clear();
        }
    }
}
