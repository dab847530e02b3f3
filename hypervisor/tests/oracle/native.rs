//! Runs code on the real processor, inside this process.
//!
//! The way in and the way out are signals: the handler of SIGUSR1 replaces the registers of its
//! frame by those to start from, so returning from it starts the code; whatever fault the code
//! ends in, the handler notes the registers and puts back those that the frame of SIGUSR1 had.
//!
//! ```text
//! run() ── raise(SIGUSR1) ──▶ enter() ── return ──▶ code ── fault ──▶ leave() ── return ──▶ run()
//! ```
//!
//! UNSAFETY: maps memory at fixed addresses, executes what is written there, and edits the frames
//! of signals. The code runs on its own stack and is given no address but those of the arena.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::layout::{
    ARENA_SIZE, CODE, CODE_SIZE, DATA, DATA_SIZE, Ended, FLAGS, IMAGES, PAGE, READ_ONLY, STACK,
    STACK_SIZE, State,
};

/// Registers of a signal frame in the order of [`State::gpr`].
const ORDER: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// Faults arrive as these.
const FAULTS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
];
/// Bytes of an FXSAVE image that belong to the processor; the kernel uses the rest.
const IMAGE: usize = 416;
/// Offset in the frame's floating-point area of its size.
const AREA_SIZE: usize = 464 + 16;
/// Offset of XSTATE_BV.
const PRESENT: usize = 512;
/// More than any processor's XSAVE area.
const MOST_AREA: usize = 16384;

/// What the handlers and `run` hand each other.
struct Exchange {
    gpr: [u64; 16],
    flags: u64,
    fxsave: [u8; IMAGE],
    host_registers: [i64; 23],
    host_area: Vec<u8>,
    vector: u64,
    error: u64,
    rip: u64,
    address: u64,
    running: bool,
}

/// The exchange of the run under way; null outside of one.
static EXCHANGE: AtomicPtr<Exchange> = AtomicPtr::new(std::ptr::null_mut());

/// The real processor, its arena mapped and its handlers in place. There is one; who asks for it
/// while another test has it waits.
pub struct Native {
    _alone: MutexGuard<'static, ()>,
}

impl Native {
    /// Maps the arena and takes the signals.
    ///
    /// # Errors
    /// What the host refused.
    pub fn new() -> Result<Self, String> {
        static ONE: Mutex<()> = Mutex::new(());
        static MAPPED: OnceLock<Result<(), String>> = OnceLock::new();
        // Each run sets all that it starts from, so a test that has failed leaves nothing behind.
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        MAPPED.get_or_init(map_arena).clone()?;
        // The stack that they are taken on is the thread's.
        take_signals()?;
        Ok(Self { _alone: alone })
    }

    /// Runs `code` from `start` until a fault.
    pub fn run(&mut self, code: &[u8], start: &State) -> Ended {
        write(CODE, code);
        write(DATA, &start.data);
        write(STACK, &start.stack);
        write(IMAGES, &start.images);
        let mut exchange = Exchange {
            gpr: start.gpr,
            flags: start.flags,
            fxsave: start.fxsave,
            host_registers: [0; 23],
            host_area: vec![0; MOST_AREA],
            vector: 0,
            error: 0,
            rip: 0,
            address: 0,
            running: false,
        };
        EXCHANGE.store(&raw mut exchange, Ordering::SeqCst);
        // SAFETY: raises a signal whose handler is `enter`; it returns here by way of `leave`,
        // with every register as it was.
        let raised = unsafe { libc::raise(libc::SIGUSR1) };
        EXCHANGE.store(std::ptr::null_mut(), Ordering::SeqCst);
        assert_eq!(raised, 0, "a signal can be raised");
        let vector = exchange.vector as u8;
        Ended {
            vector,
            error: exchange.error,
            rip: exchange.rip,
            address: if vector == 14 { exchange.address } else { 0 },
            state: State {
                gpr: exchange.gpr,
                flags: exchange.flags & FLAGS,
                fxsave: exchange.fxsave,
                data: read(DATA, DATA_SIZE),
                stack: read(STACK, STACK_SIZE),
                images: read(IMAGES, PAGE),
            },
        }
    }
}

fn write(address: u64, bytes: &[u8]) {
    // SAFETY: callers name ranges of the arena that `map_arena` made writable, and nothing else
    // in this process refers to them.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
}

fn read(address: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    // SAFETY: as in `write`.
    unsafe {
        std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len());
    }
    bytes
}

fn map_arena() -> Result<(), String> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let size = ARENA_SIZE as usize;
    // SAFETY: a fresh mapping that replaces none.
    let base = unsafe { libc::mmap(CODE as *mut _, size, libc::PROT_NONE, flags, -1, 0) };
    if base as u64 != CODE {
        return Err(format!(
            "cannot map {CODE:#x}: {}",
            std::io::Error::last_os_error()
        ));
    }
    let all = libc::PROT_READ | libc::PROT_WRITE;
    let parts = [
        (CODE, CODE_SIZE, all | libc::PROT_EXEC),
        (DATA, DATA_SIZE, all),
        (READ_ONLY, PAGE, all),
        (STACK, STACK_SIZE, all),
        (IMAGES, PAGE, all),
    ];
    for (start, len, rights) in parts {
        protect(start, len, rights)?;
        // So that no page is missing when the code runs.
        write(start, &vec![0; len as usize]);
    }
    protect(READ_ONLY, PAGE, libc::PROT_READ)
}

fn protect(start: u64, len: u64, rights: i32) -> Result<(), String> {
    // SAFETY: a range of the arena that was just mapped.
    if unsafe { libc::mprotect(start as *mut _, len as usize, rights) } != 0 {
        return Err(format!(
            "cannot protect {start:#x}: {}",
            std::io::Error::last_os_error()
        ));
    }
    Ok(())
}

fn take_signals() -> Result<(), String> {
    let stack = Box::leak(vec![0u8; 256 << 10].into_boxed_slice());
    let description = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: stack.len(),
    };
    // SAFETY: the stack is leaked, so it outlives every use.
    if unsafe { libc::sigaltstack(&raw const description, std::ptr::null_mut()) } != 0 {
        return Err(format!(
            "cannot set the stack: {}",
            std::io::Error::last_os_error()
        ));
    }
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    let enter: (i32, Handler) = (libc::SIGUSR1, enter);
    let faults = FAULTS.map(|signal| (signal, leave as Handler));
    for (signal, handler) in faults.into_iter().chain([enter]) {
        // SAFETY: zero is a valid `sigaction`; its fields are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the handlers touch only their frame and the exchange.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(format!("cannot take signal {signal}"));
        }
    }
    Ok(())
}

/// The parts of a signal frame.
struct Frame<'a> {
    registers: &'a mut [i64; 23],
    /// FXSAVE image, the kernel's words, XSAVE header, further components.
    area: &'a mut [u8],
}

/// The frame behind a handler's third argument.
///
/// # Safety
/// `context` is that argument, inside the handler.
unsafe fn frame<'a>(context: *mut libc::c_void) -> Frame<'a> {
    // SAFETY: the kernel hands over a valid, writable `ucontext_t`, whose floating-point pointer
    // leads to an XSAVE area of the size that its kernel words tell.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let start = context.uc_mcontext.fpregs.cast::<u8>();
        let size = start.add(AREA_SIZE).cast::<u32>().read_unaligned() as usize;
        let area = std::slice::from_raw_parts_mut(start, size.clamp(576, MOST_AREA));
        Frame {
            registers: &mut context.uc_mcontext.gregs,
            area,
        }
    }
}

/// Handler of SIGUSR1: its frame becomes the state to start from.
extern "C" fn enter(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the pointer is that of `run` on this very thread, which waits for `raise`; the
    // context is this handler's.
    let (exchange, frame) = unsafe {
        let Some(exchange) = EXCHANGE.load(Ordering::SeqCst).as_mut() else {
            return;
        };
        (exchange, frame(context))
    };
    exchange.host_registers = *frame.registers;
    exchange.host_area[..frame.area.len()].copy_from_slice(frame.area);
    for (index, register) in ORDER.into_iter().enumerate() {
        frame.registers[register as usize] = exchange.gpr[index] as i64;
    }
    frame.registers[libc::REG_RIP as usize] = CODE as i64;
    frame.registers[libc::REG_EFL as usize] = (0x202 | exchange.flags) as i64;
    frame.area[..28].copy_from_slice(&exchange.fxsave[..28]);
    frame.area[32..IMAGE].copy_from_slice(&exchange.fxsave[32..]);
    frame.area[PRESENT] |= 3;
    exchange.running = true;
}

/// Handler of faults: notes the state and goes back to where SIGUSR1 was raised.
extern "C" fn leave(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as in `enter`.
    let (exchange, frame) = unsafe {
        match EXCHANGE.load(Ordering::SeqCst).as_mut() {
            Some(exchange) if exchange.running => (exchange, frame(context)),
            // A fault of the test itself: let it happen again and end the process.
            _ => {
                libc::signal(signal, libc::SIG_DFL);
                return;
            }
        }
    };
    for (index, register) in ORDER.into_iter().enumerate() {
        exchange.gpr[index] = frame.registers[register as usize] as u64;
    }
    exchange.flags = frame.registers[libc::REG_EFL as usize] as u64;
    exchange.rip = frame.registers[libc::REG_RIP as usize] as u64;
    exchange.vector = frame.registers[libc::REG_TRAPNO as usize] as u64;
    exchange.error = frame.registers[libc::REG_ERR as usize] as u64;
    exchange.address = frame.registers[libc::REG_CR2 as usize] as u64;
    exchange.fxsave.copy_from_slice(&frame.area[..IMAGE]);
    *frame.registers = exchange.host_registers;
    let len = frame.area.len();
    frame.area.copy_from_slice(&exchange.host_area[..len]);
    exchange.running = false;
}
