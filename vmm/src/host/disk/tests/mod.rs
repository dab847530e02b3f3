//! Tests of images: what can be opened, what contents come of requests, and what stays of them.

mod contents;
mod opening;
mod qemu;
mod requests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageCreateOptions};

use super::*;

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("disk-{}-{next}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A raw image of so many bytes, all of them holes.
    fn raw(&self, name: &str, size: u64) -> DiskTarget {
        let path = self.path(name);
        std::fs::File::create_new(&path)
            .unwrap()
            .set_len(size)
            .unwrap();
        DiskTarget::new(path)
    }

    /// An empty qcow2 image of so many bytes.
    fn qcow2(&self, name: &str, size: u64, cluster_size: usize) -> DiskTarget {
        let path = self.path(name);
        let builder = Qcow2::<ImagoFile>::create_builder(create(&path));
        let builder = builder.size(size).cluster_size(cluster_size);
        builder.create().unwrap();
        DiskTarget::new(path)
    }

    /// A qcow2 image that is the difference from another file.
    fn overlay(&self, name: &str, size: u64, backing: &str, format: &str) -> DiskTarget {
        let path = self.path(name);
        let builder = Qcow2::<ImagoFile>::create_builder(create(&path));
        let builder = builder.backing(backing.into(), format.into());
        builder.size(size).create().unwrap();
        DiskTarget {
            backing_files: true,
            ..DiskTarget::new(path)
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn create(path: &Path) -> ImagoFile {
    ImagoFile::create_open(StorageCreateOptions::new().filename(path)).unwrap()
}

/// The text of an error and of what is behind it.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn refusal(target: &DiskTarget) -> String {
    match open(target) {
        Ok(_) => panic!("{} was opened", target.path.display()),
        Err(error) => text_of(&error),
    }
}

fn read_all(image: &dyn DiskImage) -> Vec<u8> {
    let mut all = vec![0xee; image.size() as usize];
    image.read(0, &mut all).unwrap();
    all
}

/// Numbers that look random: xorshift, 64 bits.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
