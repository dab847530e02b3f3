//! What can be opened, and what is said when it cannot.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;

#[test]
fn what_is_no_image_is_refused_with_path_and_reason() {
    let scratch = Scratch::new();
    let cases = [
        (scratch.raw("empty", 0), "is empty"),
        (
            scratch.raw("odd", 1000),
            "has 1000 bytes, which is not a multiple of 512",
        ),
        (DiskTarget::new(scratch.path("missing")), "No such file"),
        (DiskTarget::new(&scratch.0), "is a directory"),
        (
            DiskTarget::new("/dev/null"),
            "/dev/null is a character device",
        ),
    ];
    for (target, reason) in cases {
        let text = refusal(&target);
        let path = target.path.to_str().unwrap();
        assert!(text.contains(path) && text.contains(reason), "{text}");
    }
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_other_end() {
    let scratch = Scratch::new();
    let target = DiskTarget {
        read_only: true,
        ..DiskTarget::new(scratch.path("pipe"))
    };
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &target.path,
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    assert!(refusal(&target).contains("is a pipe"));
}

#[test]
fn a_file_that_we_may_not_write_is_refused_unless_only_read() {
    let scratch = Scratch::new();
    let mut target = scratch.raw("image", 512);
    std::fs::set_permissions(&target.path, PermissionsExt::from_mode(0o400)).unwrap();
    if OpenOptions::new().write(true).open(&target.path).is_ok() {
        crate::skip("this user may write to every file");
        return;
    }
    assert!(refusal(&target).contains("Permission denied"));
    target.read_only = true;
    open(&target).unwrap();
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let scratch = Scratch::new();
    for writer in [
        scratch.raw("raw", 4096),
        scratch.qcow2("qcow2", 4096, 65536),
    ] {
        let reader = DiskTarget {
            read_only: true,
            ..writer.clone()
        };
        let in_use = format!("image {} is in use", writer.path.display());
        let first = open(&writer).unwrap();
        assert_eq!(refusal(&writer), in_use);
        assert_eq!(refusal(&reader), in_use);
        drop(first);
        let first = open(&reader).unwrap();
        let second = open(&reader).unwrap();
        assert_eq!(refusal(&writer), in_use);
        drop((first, second));
        open(&writer).unwrap();
    }
}

#[test]
fn an_image_that_is_given_away_can_be_opened_and_taken_back_if_nobody_has() {
    let scratch = Scratch::new();
    for target in [
        scratch.raw("raw", 4096),
        scratch.qcow2("qcow2", 4096, 65536),
    ] {
        let ours = open(&target).unwrap();
        ours.write(512, b"ours").unwrap();
        ours.unlock().unwrap();
        let theirs = open(&target).unwrap();
        assert_eq!(read_all(&*theirs)[512..516], *b"ours");
        let error = ours.lock_again().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        drop(theirs);
        ours.lock_again().unwrap();
        assert!(refusal(&target).ends_with("is in use"));
        ours.write(516, b" again").unwrap();
        assert_eq!(read_all(&*ours)[512..522], *b"ours again");
    }
}

#[test]
fn a_read_only_image_refuses_every_change() {
    let scratch = Scratch::new();
    for mut target in [
        scratch.raw("raw", 4096),
        scratch.qcow2("qcow2", 4096, 65536),
    ] {
        target.read_only = true;
        let before = std::fs::read(&target.path).unwrap();
        let image = open(&target).unwrap();
        assert!(image.is_read_only());
        image.write(0, &[1; 512]).unwrap_err();
        image.write_zeroes(0, 512, true).unwrap_err();
        image.resize(8192).unwrap_err();
        image.flush().unwrap();
        assert_eq!(read_all(&*image), [0; 4096]);
        drop(image);
        assert_eq!(std::fs::read(&target.path).unwrap(), before);
    }
}

#[test]
fn the_format_is_what_the_first_bytes_or_the_operator_say() {
    let scratch = Scratch::new();
    let mut target = scratch.qcow2("image", 1 << 20, 65536);
    assert_eq!(open(&target).unwrap().size(), 1 << 20);
    target.format = Some(ImageFormat::Raw);
    let len = std::fs::metadata(&target.path).unwrap().len();
    assert_eq!(open(&target).unwrap().size(), len);
    let mut target = scratch.raw("raw", 4096);
    target.format = Some(ImageFormat::Qcow2);
    assert!(refusal(&target).contains("magic number"));
}

#[test]
fn backing_files_are_followed_only_when_that_is_allowed() {
    let scratch = Scratch::new();
    let base = scratch.raw("base", 1 << 20);
    let image = open(&base).unwrap();
    image.write(70_000, b"from the base").unwrap();
    let mut overlay = scratch.overlay("overlay", 1 << 20, "base", "raw");
    assert!(refusal(&overlay).contains("base is in use"));
    drop(image);

    let image = open(&overlay).unwrap();
    let mut found = [0; 13];
    image.read(70_000, &mut found).unwrap();
    assert_eq!(&found, b"from the base");
    assert!(refusal(&base).ends_with("base is in use"));
    image.write_zeroes(69_632, 4096, true).unwrap();
    image.write(0, b"from the overlay").unwrap();
    image.read(70_000, &mut found).unwrap();
    assert_eq!(found, [0; 13]);
    drop(image);
    assert_eq!(std::fs::read(&base.path).unwrap()[..16], [0; 16]);

    overlay.backing_files = false;
    let text = refusal(&overlay);
    assert!(
        text.contains("overlay has the backing file base, and"),
        "{text}"
    );
}

#[test]
fn backing_files_in_a_circle_are_refused() {
    let scratch = Scratch::new();
    let target = DiskTarget {
        read_only: true,
        ..scratch.overlay("circle", 1 << 20, "circle", "qcow2")
    };
    assert!(refusal(&target).contains("more than 16 backing files"));
}

/// A damage and what is said about it.
type Damage = (&'static str, u64, &'static [u8]);

#[test]
fn damaged_headers_are_refused_by_what_is_wrong() {
    let scratch = Scratch::new();
    let damages: [Damage; 12] = [
        ("version 9 is not supported", 4, &[0, 0, 0, 9]),
        ("clusters have 2^40 bytes", 20, &[0, 0, 0, 40]),
        ("is empty", 24, &[0; 8]),
        ("has 1048577 bytes", 24, &[0, 0, 0, 0, 0, 16, 0, 1]),
        ("too short for", 24, &[0x40, 0, 0, 0, 0, 16, 0, 0]),
        ("encrypted", 32, &[0, 0, 0, 2]),
        ("L1 table has 4294967295 entries", 36, &[0xff; 4]),
        ("L1 table is at byte 0", 40, &[0; 8]),
        ("truncated", 40, &[0x40, 0, 0, 0, 0, 0, 0, 0]),
        ("refcount table is at byte 1", 48, &[0, 0, 0, 0, 0, 0, 0, 1]),
        ("not closed", 72, &[0, 0, 0, 0, 0, 0, 0, 1]),
        ("external file", 72, &[0, 0, 0, 0, 0, 0, 0, 4]),
    ];
    for (index, (reason, at, bytes)) in damages.into_iter().enumerate() {
        let target = scratch.qcow2(&format!("image{index}"), 1 << 20, 65536);
        patch(&target, at, bytes);
        let text = refusal(&target);
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(text.contains(target.path.to_str().unwrap()), "{text}");
    }
}

#[test]
fn damaged_tables_are_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    // What `qcow2` makes: header, refcount table, refcount block, L1 table; then an L2 table and
    // data, each a cluster.
    let cluster = 65536;
    let damages: [Damage; 7] = [
        (
            "header is in cluster 0, which is not counted",
            2 * cluster,
            &[0, 0],
        ),
        (
            "data is in cluster 5, which is not counted",
            2 * cluster + 10,
            &[0, 0],
        ),
        (
            "refcount block is at byte 4244635648",
            cluster,
            &[0, 0, 0, 0, 0xfd, 0, 0, 0],
        ),
        (
            "L2 table is in cluster 3, as is something",
            3 * cluster,
            &[0, 0, 0, 0, 0, 3, 0, 0],
        ),
        (
            "data is in cluster 1, as is something",
            4 * cluster + 8,
            &[0x80, 0, 0, 0, 0, 1, 0, 0],
        ),
        (
            "data is in cluster 5, as is something",
            4 * cluster + 8,
            &[0x80, 0, 0, 0, 0, 5, 0, 0],
        ),
        ("table of features has", 104 + 4, &[0, 0, 0, 7]),
    ];
    for (index, (reason, at, bytes)) in damages.into_iter().enumerate() {
        let target = scratch.qcow2(&format!("image{index}"), 1 << 20, cluster as usize);
        open(&target).unwrap().write(0, &[1; 65536]).unwrap();
        patch(&target, at, bytes);
        let before = std::fs::read(&target.path).unwrap();
        let text = refusal(&target);
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(std::fs::read(&target.path).unwrap() == before);
    }
}

fn patch(target: &DiskTarget, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(&target.path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn truncated_qcow2_images_are_refused_wherever_they_end() {
    let scratch = Scratch::new();
    let target = scratch.qcow2("whole", 1 << 20, 4096);
    let image = open(&target).unwrap();
    let data: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8 + 1).collect();
    image.write(0, &data).unwrap();
    drop(image);
    let whole = std::fs::read(&target.path).unwrap();
    let mut random = Random(5);
    for round in 0..100 {
        let len = random.below(whole.len() as u64) as usize;
        let cut = DiskTarget {
            format: Some(ImageFormat::Qcow2),
            ..DiskTarget::new(scratch.path(&format!("cut{round}")))
        };
        std::fs::write(&cut.path, &whole[..len]).unwrap();
        match open(&cut) {
            Err(error) => assert!(text_of(&error).contains("cut"), "{error}"),
            // Nothing that is used was behind the cut.
            Ok(image) => assert!(read_all(&*image) == data, "cut to {len} bytes"),
        }
    }
}

#[test]
fn a_raw_image_truncated_behind_our_back_fails_instead_of_reading_zeroes() {
    let scratch = Scratch::new();
    let target = scratch.raw("image", 8192);
    let image = open(&target).unwrap();
    File::options()
        .write(true)
        .open(&target.path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = image.read(0, &mut [0; 8192]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let error = image.data_ranges().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

/// Damage anywhere must end in an error or in some contents, never in a panic.
#[test]
fn randomly_damaged_qcow2_images_do_no_harm() {
    let scratch = Scratch::new();
    let target = scratch.qcow2("whole", 1 << 20, 4096);
    let image = open(&target).unwrap();
    for at in (0..1 << 20).step_by(3 * 4096) {
        image.write(at, &[0x5a; 4096]).unwrap();
    }
    drop(image);
    let whole = std::fs::read(&target.path).unwrap();
    // Where there is anything: tables, mostly.
    let used: Vec<usize> = (0..whole.len())
        .filter(|at| whole[*at] != 0 && whole[*at] != 0x5a)
        .collect();
    let mut random = Random(0x7ab1_e5ee_d000_0001);
    let mut opened = 0;
    for round in 0..300 {
        let mut damaged = whole.clone();
        for _ in 0..=random.below(3) {
            let at = used[random.below(used.len() as u64) as usize];
            damaged[at] ^= 1 << random.below(8);
        }
        let target = DiskTarget {
            format: Some(ImageFormat::Qcow2),
            ..DiskTarget::new(scratch.path("damaged"))
        };
        std::fs::write(&target.path, damaged).unwrap();
        let Ok(image) = open(&target) else {
            continue;
        };
        opened += 1;
        let size = image.size().min(4 << 20);
        for at in (0..size).step_by(4096) {
            let len = (size - at).min(4096);
            let _ = image.read(at, &mut vec![0; len as usize]);
            if (at / 4096 + round) % 3 == 0 {
                let _ = image.write(at, &vec![1; len as usize]);
                let _ = image.write_zeroes(at, len, true);
            }
        }
        let _ = image.data_ranges();
        let _ = image.resize(image.size() + 512);
        let _ = image.flush();
    }
    assert!(opened > 10, "only {opened} of the images were opened");
}
