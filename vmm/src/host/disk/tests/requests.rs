//! Requests, one by one and through the queue.

use std::sync::mpsc;
use std::sync::{Condvar, Mutex};

use devices::virtio::block::{BlockIoError, BlockOperation, BlockRequest};
use devices::virtio::payload::Payload;

use super::*;
use crate::host::disk::raw::RawImage;
use crate::vm::Permit;

fn request(operation: BlockOperation, sector: u64, len: u64, data: &[u8]) -> BlockRequest {
    BlockRequest {
        id: sector,
        operation,
        sector,
        len,
        durable: false,
        data: data.to_vec().into(),
    }
}

#[test]
fn every_operation_does_what_it_says() {
    let scratch = Scratch::new();
    for mut target in [
        scratch.raw("raw", 1 << 20),
        scratch.qcow2("qcow2", 1 << 20, 65536),
    ] {
        for sparse in [true, false] {
            target.sparse = sparse;
            let image = open(&target).unwrap();
            let run = |operation, data: &[u8], durable| {
                let len = if operation == BlockOperation::Flush {
                    0
                } else {
                    1024
                };
                let mut request = request(operation, 3, len, data);
                request.durable = durable;
                execute(&*image, &request).unwrap().into_bytes()
            };
            for zeroes in [
                BlockOperation::Discard,
                BlockOperation::WriteZeroes { may_unmap: true },
                BlockOperation::WriteZeroes { may_unmap: false },
            ] {
                assert_eq!(run(BlockOperation::Write, &[9; 1024], true), b"");
                assert_eq!(run(BlockOperation::Flush, &[], true), b"");
                assert_eq!(run(BlockOperation::Read, &[], false), [9; 1024]);
                assert_eq!(run(zeroes, &[], sparse), b"");
                assert_eq!(run(BlockOperation::Read, &[], false), [0; 1024]);
            }
        }
    }
}

#[test]
fn impossible_requests_fail() {
    let scratch = Scratch::new();
    let image = open(&scratch.raw("image", 4096)).unwrap();
    let discard = BlockOperation::Discard;
    for bad in [
        request(BlockOperation::Read, 8, 512, &[]),
        request(BlockOperation::Read, 0, u64::MAX, &[]),
        request(BlockOperation::Read, u64::MAX, 512, &[]),
        request(BlockOperation::Write, 7, 1024, &[0; 1024]),
        request(BlockOperation::Write, 0, 1024, &[0; 512]),
        request(discard, 1 << 55, 512, &[]),
        request(discard, 0, 4608, &[]),
    ] {
        let result = execute(&*image, &bad);
        assert_eq!(result, Err(BlockIoError::Io), "{bad:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_of_the_request() {
    let full = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    let image = RawImage::over(full, 4096);
    let write = request(BlockOperation::Write, 0, 512, &[1; 512]);
    assert_eq!(execute(&image, &write), Err(BlockIoError::Io));
    let zeroes = request(BlockOperation::Discard, 0, 512, &[]);
    assert_eq!(execute(&image, &zeroes), Err(BlockIoError::Io));
}

type Completion = (u64, Result<Payload, BlockIoError>);

/// Completions as they come.
fn completions() -> (Done, mpsc::Receiver<Completion>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let done: Done = Arc::new(move |id, result| {
        sender.lock().unwrap().send((id, result)).unwrap();
    });
    (done, receiver)
}

#[test]
fn requests_at_the_same_time_are_each_completed_once_and_keep_their_contents() {
    const COUNT: u64 = 400;
    const LEN: u64 = 3 * 512;
    let scratch = Scratch::new();
    let size = COUNT * LEN;
    for target in [
        scratch.raw("ring", size),
        DiskTarget {
            io_uring: false,
            ..scratch.raw("threads", size)
        },
        scratch.qcow2("small", size, 4096),
        scratch.qcow2("large", size, 65536),
        DiskTarget {
            direct: true,
            ..scratch.raw("direct", size.next_multiple_of(4096))
        },
    ] {
        let (done, completed) = completions();
        let queue = match open(&target) {
            Ok(image) => DiskQueue::start(image, done).unwrap(),
            Err(error) if target.direct => {
                crate::skip(text_of(&error));
                continue;
            }
            Err(error) => panic!("{}", text_of(&error)),
        };
        let byte = |id: u64| (id % 250) as u8 + 1;
        let mut random = Random(9);
        let mut zeroed = vec![false; COUNT as usize];
        for round in 0..3 {
            for id in 0..COUNT {
                let sector = id * LEN / 512;
                let zero = round > 0 && random.below(3) == 0;
                zeroed[id as usize] = zero;
                let durable = random.below(20) == 0;
                let mut request = if zero {
                    let may_unmap = random.below(2) == 0;
                    let zeroes = BlockOperation::WriteZeroes { may_unmap };
                    request(zeroes, sector, LEN, &[])
                } else {
                    let data = vec![byte(id); LEN as usize];
                    request(BlockOperation::Write, sector, LEN, &data)
                };
                request.id = id;
                request.durable = durable;
                queue.submit(request);
                if id % 97 == 0 {
                    queue.submit(BlockRequest {
                        id: COUNT,
                        ..request_flush()
                    });
                }
            }
            quiesce(&queue);
        }
        let mut times = vec![0; COUNT as usize + 1];
        for (id, result) in completed.try_iter() {
            result.unwrap();
            times[id as usize] += 1;
        }
        assert!(times[..COUNT as usize].iter().all(|times| *times == 3));
        drop(queue);
        // Opened again: the queue's image is closed.
        let all = read_all(&*open(&target).unwrap());
        for id in 0..COUNT {
            let expected = if zeroed[id as usize] { 0 } else { byte(id) };
            let part = &all[(id * LEN) as usize..][..LEN as usize];
            assert!(
                part.iter().all(|found| *found == expected),
                "{} {id}",
                target.path.display()
            );
        }
    }
}

/// Runs a test on a queue of each kind, each with an image of so many bytes.
fn by_ring_and_by_threads(size: u64, test: impl Fn(Arc<dyn DiskImage>)) {
    let scratch = Scratch::new();
    for io_uring in [true, false] {
        let target = DiskTarget {
            io_uring,
            ..scratch.raw(&format!("ring-{io_uring}"), size)
        };
        test(open(&target).unwrap());
    }
}

/// Waits until everything handed in is completed.
fn quiesce(queue: &DiskQueue) {
    let (sender, receiver) = mpsc::channel();
    queue.alone(move || sender.send(()).unwrap());
    receiver.recv().unwrap();
}

fn request_flush() -> BlockRequest {
    request(BlockOperation::Flush, 0, 0, &[])
}

#[test]
fn handing_in_does_not_wait_and_dropping_completes_everything() {
    by_ring_and_by_threads(1 << 20, |image| {
        let gate = Arc::new((Mutex::new((false, 0)), Condvar::new()));
        let done: Done = {
            let gate = gate.clone();
            Arc::new(move |_, result| {
                result.unwrap();
                let mut state = gate.0.lock().unwrap();
                while !state.0 {
                    state = gate.1.wait(state).unwrap();
                }
                state.1 += 1;
            })
        };
        let queue = DiskQueue::start(image, done).unwrap();
        for sector in 0..100 {
            queue.submit(request(BlockOperation::Write, sector, 512, &[1; 512]));
        }
        assert_eq!(gate.0.lock().unwrap().1, 0, "nothing can be complete yet");
        gate.0.lock().unwrap().0 = true;
        gate.1.notify_all();
        drop(queue);
        assert_eq!(gate.0.lock().unwrap().1, 100);
    });
}

#[test]
fn what_is_done_alone_is_behind_what_came_before_and_before_what_comes_after() {
    by_ring_and_by_threads(1 << 20, |image| {
        const COUNT: u64 = 200;
        let (done, told) = completions();
        let queue = DiskQueue::start(image.clone(), done.clone()).unwrap();
        // Sector numbers name the requests; the others are told by numbers that no sector has.
        for round in 0..4 {
            for id in 0..COUNT {
                let sector = round * COUNT + id;
                queue.submit(request(BlockOperation::Write, sector, 512, &[1; 512]));
            }
            let done = done.clone();
            queue.alone(move || done(u64::MAX - round, Ok(Payload::default())));
        }
        for round in 0..4 {
            let mut ids: Vec<u64> = (0..COUNT).map(|_| told.recv().unwrap().0).collect();
            ids.sort_unstable();
            let expected: Vec<u64> = (round * COUNT..(round + 1) * COUNT).collect();
            assert_eq!(ids, expected);
            assert_eq!(told.recv().unwrap().0, u64::MAX - round);
        }
        let resized = image.clone();
        queue.alone(move || resized.resize(512).unwrap());
        queue.submit(request(BlockOperation::Read, 1, 512, &[]));
        drop(queue);
        assert_eq!(told.recv().unwrap(), (1, Err(BlockIoError::Io)));
        assert_eq!(image.size(), 512);
    });
}

#[test]
fn a_shared_image_is_changed_only_under_a_permit() {
    by_ring_and_by_threads(4096, |image| {
        let (done, told) = completions();
        let permit = Permit::unlimited();
        let queue = DiskQueue::start_under(image.clone(), done, permit.clone()).unwrap();
        permit.set(ft::time::HostTime(0));
        queue.submit(request(BlockOperation::Write, 1, 512, &[1; 512]));
        queue.submit(request(BlockOperation::Read, 2, 512, &[]));
        // Reading harms nobody.
        assert_eq!(told.recv().unwrap().0, 2);
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(told.try_recv().is_err());
        permit.set(ft::time::HostTime(u64::MAX));
        assert_eq!(told.recv().unwrap(), (1, Ok(Payload::default())));

        permit.set(ft::time::HostTime(0));
        queue.submit(request(BlockOperation::Write, 3, 512, &[3; 512]));
        queue.discard();
        assert_eq!(told.recv().unwrap(), (3, Err(BlockIoError::Io)));
        permit.set(ft::time::HostTime(u64::MAX));
        queue.submit(request(BlockOperation::Discard, 1, 512, &[]));
        assert_eq!(told.recv().unwrap(), (1, Err(BlockIoError::Io)));
        drop(queue);
        let mut expected = vec![0; 4096];
        expected[512..1024].fill(1);
        assert!(read_all(&*image) == expected);
    });
}

#[test]
fn a_queue_that_ends_without_a_permit_does_not_wait_for_one() {
    by_ring_and_by_threads(4096, |image| {
        let (done, told) = completions();
        let permit = Permit::unlimited();
        permit.set(ft::time::HostTime(0));
        let queue = DiskQueue::start_under(image, done, permit).unwrap();
        for sector in 0..8 {
            queue.submit(request(BlockOperation::Write, sector, 512, &[1; 512]));
        }
        drop(queue);
        let failed = |(_, result): (u64, _)| result == Err(BlockIoError::Io);
        assert_eq!(
            told.iter()
                .take(8)
                .filter(|told| failed(told.clone()))
                .count(),
            8
        );
    });
}

#[test]
fn a_raw_image_is_served_by_a_ring_unless_that_is_not_wanted() {
    let scratch = Scratch::new();
    let is_ring = |target: &DiskTarget| {
        let (done, _told) = completions();
        DiskQueue::start(open(target).unwrap(), done)
            .unwrap()
            .is_ring()
    };
    let mut target = scratch.raw("raw", 4096);
    if !is_ring(&target) {
        crate::skip("the host has no io_uring".to_owned());
    }
    target.io_uring = false;
    assert!(!is_ring(&target));
    assert!(!is_ring(&scratch.qcow2("qcow2", 1 << 20, 4096)));
}

#[test]
fn reads_that_end_early_and_files_that_are_too_short_fail_alike() {
    by_ring_and_by_threads(16384, |image| {
        let path = image.failures().path().to_owned();
        let (done, told) = completions();
        let queue = DiskQueue::start(image, done).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(6144).unwrap();
        // Half of it is there; none of it is there; all of it is there.
        for (sector, expected) in [
            (8, Err(BlockIoError::Io)),
            (16, Err(BlockIoError::Io)),
            (0, Ok(Payload::from(vec![0; 4096]))),
        ] {
            queue.submit(request(BlockOperation::Read, sector, 4096, &[]));
            assert_eq!(told.recv().unwrap(), (sector, expected));
        }
    });
}

#[test]
fn an_image_that_has_lost_something_is_flushed_no_more() {
    by_ring_and_by_threads(8192, |image| {
        image.failures().lose();
        let (done, told) = completions();
        let queue = DiskQueue::start(image, done).unwrap();
        let write = request(BlockOperation::Write, 0, 512, &[7; 512]);
        let durable = BlockRequest {
            durable: true,
            ..request(BlockOperation::Write, 8, 512, &[7; 512])
        };
        let read = request(BlockOperation::Read, 0, 512, &[]);
        for (request, expected) in [
            (write, Ok(Payload::default())),
            (read, Ok(Payload::from(vec![7; 512]))),
            (durable, Err(BlockIoError::Io)),
            (request_flush(), Err(BlockIoError::Io)),
        ] {
            queue.submit(request);
            assert_eq!(told.recv().unwrap().1, expected);
        }
    });
}

/// Not a test: prints how long requests take, by a ring and by threads.
#[test]
#[ignore = "a measurement: cargo test --release -p vmm measure_the -- --ignored --nocapture"]
fn measure_the_latency_of_requests() {
    const SIZE: u64 = 64 << 20;
    by_ring_and_by_threads(SIZE, |image| {
        image.write(0, &vec![7; SIZE as usize]).unwrap();
        image.flush().unwrap();
        let file = std::fs::File::open(image.failures().path()).unwrap();
        let (done, told) = completions();
        let queue = DiskQueue::start(image, done).unwrap();
        let kind = if queue.is_ring() { "ring" } else { "threads" };
        let data = vec![1; 4096];
        for (name, operation, count) in [
            ("cold read", BlockOperation::Read, 4000),
            ("read", BlockOperation::Read, 20_000),
            ("write", BlockOperation::Write, 20_000),
            ("durable write", BlockOperation::Write, 1000),
        ] {
            for depth in [1, 8, 32] {
                if name == "cold read" {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
                }
                let mut random = Random(5);
                let begun = std::time::Instant::now();
                for sent in 0..count + depth {
                    if sent >= depth {
                        told.recv().unwrap().1.unwrap();
                    }
                    if sent < count {
                        let sector = random.below(SIZE / 4096) * 8;
                        let data = if operation.modifies() { &data[..] } else { &[] };
                        let mut request = request(operation, sector, 4096, data);
                        request.durable = name == "durable write";
                        queue.submit(request);
                    }
                }
                let us = begun.elapsed().as_secs_f64() * 1e6 / count as f64;
                println!("{kind:8} {name:14} depth {depth:2}: {us:7.1} us for each request");
            }
        }
    });
}
