//! Contents against a model, in every format.

use super::*;

const START_SIZE: u64 = 1 << 20;

/// Compares image and model, and what is said about holes.
fn compare(image: &dyn DiskImage, model: &[u8], context: &str) {
    assert_eq!(image.size(), model.len() as u64, "{context}");
    assert!(read_all(image) == model, "{context}: contents differ");
    let ranges = image.data_ranges().unwrap();
    let mut end = 0;
    for range in &ranges {
        assert!(range.start >= end && range.start < range.end, "{ranges:?}");
        assert!(range.start == 0 || range.start > end, "{ranges:?}");
        let hole = &model[end as usize..range.start as usize];
        assert!(hole.iter().all(|byte| *byte == 0), "{context}: {ranges:?}");
        end = range.end;
    }
    assert!(end <= model.len() as u64, "{context}: {ranges:?}");
    let hole = &model[end as usize..];
    assert!(hole.iter().all(|byte| *byte == 0), "{context}: {ranges:?}");
}

fn random_range(random: &mut Random, size: u64) -> (usize, usize) {
    let sectors = size / 512;
    let longest = if random.below(4) == 0 { sectors } else { 64 };
    let start = random.below(sectors);
    let count = 1 + random.below((sectors - start).min(longest));
    ((start * 512) as usize, (count * 512) as usize)
}

fn change(image: &dyn DiskImage, model: &mut Vec<u8>, random: &mut Random) -> String {
    let size = model.len() as u64;
    let (at, len) = random_range(random, size);
    match random.below(12) {
        0..=4 => {
            let seed = random.next();
            let data: Vec<u8> = (0..len as u64)
                .map(|at| (seed.wrapping_mul(at | 1) >> 32) as u8)
                .collect();
            image.write(at as u64, &data).unwrap();
            model[at..at + len].copy_from_slice(&data);
            format!("write {len} at {at}")
        }
        5..=7 => {
            let may_unmap = random.below(2) == 0;
            image
                .write_zeroes(at as u64, len as u64, may_unmap)
                .unwrap();
            model[at..at + len].fill(0);
            format!("zero {len} at {at}, unmap {may_unmap}")
        }
        8 => {
            let new_size = (1 + random.below(2 * START_SIZE / 4096)) * 4096;
            image.resize(new_size).unwrap();
            model.resize(new_size as usize, 0);
            format!("resize from {size} to {new_size}")
        }
        9 => {
            image.flush().unwrap();
            "flush".into()
        }
        _ => {
            let mut found = vec![0xee; len];
            image.read(at as u64, &mut found).unwrap();
            assert!(found == model[at..at + len], "read {len} at {at}");
            format!("read {len} at {at}")
        }
    }
}

/// Random requests, with closing and opening between them.
pub(super) fn follows_the_model(target: &DiskTarget, mut model: Vec<u8>, seed: u64) {
    let mut random = Random(seed);
    for round in 0..12 {
        let image = open(target).unwrap();
        compare(&*image, &model, &format!("seed {seed}, opening {round}"));
        for step in 0..25 {
            let what = change(&*image, &mut model, &mut random);
            let context = format!("seed {seed}, round {round}, step {step}: {what}");
            compare(&*image, &model, &context);
        }
    }
}

fn empty() -> Vec<u8> {
    vec![0; START_SIZE as usize]
}

#[test]
fn raw_images_follow_the_model() {
    let scratch = Scratch::new();
    for seed in 1..=4 {
        let mut target = scratch.raw(&format!("image{seed}"), START_SIZE);
        target.sparse = seed % 2 == 0;
        follows_the_model(&target, empty(), seed);
    }
}

#[test]
fn raw_images_with_direct_access_follow_the_model() {
    let scratch = Scratch::new();
    for seed in 1..=4 {
        let target = DiskTarget {
            direct: true,
            ..scratch.raw(&format!("image{seed}"), START_SIZE)
        };
        if let Err(error) = open(&target) {
            crate::skip(text_of(&error));
            return;
        }
        follows_the_model(&target, empty(), seed);
    }
}

#[test]
fn qcow2_images_follow_the_model() {
    let scratch = Scratch::new();
    for (seed, cluster_size) in [(1, 512), (2, 4096), (3, 65536), (4, 2 << 20)] {
        let mut target = scratch.qcow2(&format!("image{seed}"), START_SIZE, cluster_size);
        follows_the_model(&target, empty(), seed);
        target.direct = true;
        let kept = read_all(&*open(&target).unwrap());
        follows_the_model(&target, kept, seed + 10);
    }
}

#[test]
fn qcow2_images_with_a_backing_file_follow_the_model() {
    let scratch = Scratch::new();
    let mut random = Random(77);
    let base: Vec<u8> = (0..START_SIZE).map(|_| random.next() as u8).collect();
    std::fs::write(scratch.path("base"), &base).unwrap();
    for (seed, size) in [(1, START_SIZE), (2, START_SIZE / 2), (3, 2 * START_SIZE)] {
        let target = scratch.overlay(&format!("image{seed}"), size, "base", "raw");
        let mut model = base.clone();
        model.resize(size as usize, 0);
        follows_the_model(&target, model, seed);
    }
    assert!(std::fs::read(scratch.path("base")).unwrap() == base);
}

/// Version 2 has no mark for zeroes.
#[test]
fn qcow2_images_of_version_2_follow_the_model() {
    use std::os::unix::fs::FileExt;
    let scratch = Scratch::new();
    let target = scratch.qcow2("image", START_SIZE, 4096);
    let file = std::fs::File::options()
        .write(true)
        .open(&target.path)
        .unwrap();
    // The version; the header of version 2 ends before the features, which do not matter then.
    file.write_all_at(&2u32.to_be_bytes(), 4).unwrap();
    file.write_all_at(&[0; 256], 72).unwrap();
    follows_the_model(&target, empty(), 6);
}

#[test]
fn what_was_completed_is_in_the_file_without_closing() {
    let scratch = Scratch::new();
    let target = scratch.qcow2("image", START_SIZE, 65536);
    let image = open(&target).unwrap();
    image.write(300_000, &[7; 4096]).unwrap();
    // As if the process had died here.
    let copy = DiskTarget::new(scratch.path("copy"));
    std::fs::copy(&target.path, &copy.path).unwrap();
    let mut found = [0; 4096];
    open(&copy).unwrap().read(300_000, &mut found).unwrap();
    assert_eq!(found, [7; 4096]);
}

#[test]
fn discarding_gives_space_back_only_where_it_is_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let target = scratch.raw("image", START_SIZE);
    let image = open(&target).unwrap();
    let blocks = || {
        image.flush().unwrap();
        std::fs::metadata(&target.path).unwrap().blocks()
    };
    image.write(0, &vec![1; START_SIZE as usize]).unwrap();
    let full = blocks();
    image.write_zeroes(0, START_SIZE, false).unwrap();
    assert_eq!(blocks(), full);
    image.write_zeroes(0, START_SIZE, true).unwrap();
    if blocks() == full {
        let folder = scratch.0.display();
        crate::skip(format!("the file system of {folder} has no holes"));
        return;
    }
    assert_eq!(image.data_ranges().unwrap(), []);
}

#[test]
fn ranges_outside_and_impossible_sizes_are_refused() {
    let scratch = Scratch::new();
    for target in [
        scratch.raw("raw", START_SIZE),
        scratch.qcow2("qcow2", START_SIZE, 65536),
    ] {
        let image = open(&target).unwrap();
        for offset in [START_SIZE - 511, START_SIZE, u64::MAX - 100] {
            image.read(offset, &mut [0; 512]).unwrap_err();
            image.write(offset, &[0; 512]).unwrap_err();
            image.write_zeroes(offset, 512, true).unwrap_err();
            image.write_zeroes(offset, 512, false).unwrap_err();
        }
        image.write_zeroes(0, u64::MAX, true).unwrap_err();
        for size in [0, 513, u64::MAX, u64::MAX - 511] {
            image.resize(size).unwrap_err();
        }
        assert_eq!(read_all(&*image), empty());
    }
}
