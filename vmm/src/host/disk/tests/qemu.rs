//! Images that QEMU's tool made, and what it says about ours. Skipped where it is not installed.

use std::process::Command;

use super::contents::follows_the_model;
use super::*;

const SIZE: u64 = 1 << 20;

/// Runs the tool; `None` when there is none.
fn qemu_img(scratch: &Scratch, arguments: &str) -> Option<String> {
    let output = Command::new("qemu-img")
        .args(arguments.split(' '))
        .current_dir(&scratch.0)
        .output();
    match output {
        Ok(output) => {
            let text = [&output.stdout[..], &output.stderr[..]].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(output.status.success(), "qemu-img {arguments}: {text}");
            Some(text)
        }
        Err(error) => {
            crate::skip(format!("qemu-img: {error}"));
            None
        }
    }
}

/// A raw file with some data in it.
fn some_data(scratch: &Scratch) -> Vec<u8> {
    let mut random = Random(3);
    let mut data = vec![0; SIZE as usize];
    for part in data.chunks_mut(50_000).step_by(3) {
        part.fill_with(|| random.next() as u8 % 4);
    }
    std::fs::write(scratch.path("data"), &data).unwrap();
    data
}

#[test]
fn images_that_qemu_made_follow_the_model_and_stay_well() {
    let scratch = Scratch::new();
    let data = some_data(&scratch);
    for (index, options) in [
        "",
        "-c",
        "-o compat=0.10",
        "-o compat=0.10 -c",
        "-o cluster_size=512",
        "-o lazy_refcounts=on,refcount_bits=1",
        "-o preallocation=metadata",
        "-o preallocation=falloc,cluster_size=2M",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("image{index}");
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("{options} ")
        };
        let convert = format!("convert -f raw -O qcow2 {options}data {name}");
        if qemu_img(&scratch, &convert).is_none() {
            return;
        }
        let target = DiskTarget::new(scratch.path(&name));
        follows_the_model(&target, data.clone(), index as u64 + 1);
        let image = open(&target).unwrap();
        std::fs::write(scratch.path("expected"), read_all(&*image)).unwrap();
        drop(image);
        // It fails when there is anything wrong, be it only a cluster that nobody uses.
        qemu_img(&scratch, &format!("check {name}"));
        let compare = format!("compare -f raw -F qcow2 expected {name}");
        qemu_img(&scratch, &compare);
    }
}

#[test]
fn internal_snapshots_keep_their_contents() {
    let scratch = Scratch::new();
    let data = some_data(&scratch);
    if qemu_img(&scratch, "convert -f raw -O qcow2 data image").is_none() {
        return;
    }
    qemu_img(&scratch, "snapshot -c before image");
    let target = DiskTarget::new(scratch.path("image"));
    let image = open(&target).unwrap();
    image.write(0, &vec![5; SIZE as usize / 2]).unwrap();
    image.write_zeroes(SIZE / 2, SIZE / 4, true).unwrap();
    drop(image);
    qemu_img(&scratch, "check image");
    qemu_img(&scratch, "snapshot -a before image");
    assert!(read_all(&*open(&target).unwrap()) == data);
}

#[test]
fn features_that_we_lack_are_refused_by_name() {
    let scratch = Scratch::new();
    for (index, (options, reason)) in [
        ("extended_l2=on", "extended L2"),
        ("compression_type=zstd", "compression is not deflate"),
        ("data_file=elsewhere", "external file"),
    ]
    .into_iter()
    .enumerate()
    {
        let create = format!("create -f qcow2 -o {options} image{index} {SIZE}");
        if qemu_img(&scratch, &create).is_none() {
            return;
        }
        let text = refusal(&DiskTarget::new(scratch.path(&format!("image{index}"))));
        assert!(text.contains(reason), "{text}");
    }
}
